//! dtsctl as an operator uses it, without a daemon and with a scripted one.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

fn dtsctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtsctl"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// Answers one request with this body and gives back its first line.
fn daemon(
    socket: &Path,
    status: &'static str,
    body: &'static str,
) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || answer(&listener, status, body))
}

/// Answers the next request, and gives back its first line.
fn answer(listener: &UnixListener, status: &str, body: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).unwrap();
    text(&request).lines().next().unwrap().to_owned()
}

#[test]
fn a_dead_daemon_is_said_to_be_dead() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.sock");
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for (socket, why) in [
        (&missing, "No such file or directory"),
        (&stale, "Connection refused"),
    ] {
        for command in ["status", "flows", "handovers"] {
            let out = dtsctl(&["--socket", path(socket), command]);
            assert_eq!(out.status.code(), Some(1));
            assert!(out.stdout.is_empty());
            let line = text(&out.stderr);
            let start = format!("dtsctl: no daemon answers at {}: {why}", socket.display());
            assert!(line.starts_with(&start), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }
}

#[test]
fn a_daemon_that_hangs_up_is_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let out = dtsctl(&["--socket", path(&socket), "status"]);
    daemon.join().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).starts_with("dtsctl: no daemon answers at "),
        "{out:?}"
    );
}

#[test]
fn handovers_as_json_and_as_a_table() {
    const BODY: &str = r#"[{"client":"10.0.0.9:1234","source":1,"destination":2,"outcome":"accepted","replay":"fast-open","duration_us":321}]"#;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let server = daemon(&socket, "200 OK", BODY);
    let out = dtsctl(&[
        "--socket",
        path(&socket),
        "handovers",
        "--json",
        "--limit",
        "7",
    ]);
    assert_eq!(server.join().unwrap(), "GET /v1/handovers?limit=7 HTTP/1.1");
    assert!(out.status.success(), "{out:?}");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        json,
        serde_json::from_str::<serde_json::Value>(BODY).unwrap()
    );

    let socket = dir.path().join("b.sock");
    let server = daemon(&socket, "200 OK", BODY);
    let out = dtsctl(&["--socket", path(&socket), "handovers"]);
    server.join().unwrap();
    let row = text(&out.stdout).lines().nth(1).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells,
        [
            "-",
            "10.0.0.9:1234",
            "-",
            "1",
            "2",
            "accepted",
            "fast-open",
            "-",
            "321",
            "-"
        ]
    );
}

#[test]
fn a_daemons_complaint_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let server = daemon(
        &socket,
        "503 Service Unavailable",
        "the data plane is not up",
    );
    let out = dtsctl(&["--socket", path(&socket), "status"]);
    server.join().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("the data plane is not up"),
        "{out:?}"
    );
}

/// Answers requests one after the other with these bodies; gives back their first lines.
fn daemon_of_many(socket: &Path, bodies: Vec<String>) -> std::thread::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(socket).unwrap();
    let each = move |body: String| answer(&listener, "200 OK", &body);
    std::thread::spawn(move || bodies.into_iter().map(each).collect())
}

fn node_2(drained: bool) -> String {
    format!(
        r#"{{"minority":false,"nodes":[{{"id":2,"link":"10.77.1.2","member":"alive","state":"draining","drained":{drained},"connections":7,"weight":50,"epoch":"00ff"}}]}}"#
    )
}

#[test]
fn nodes_are_told_what_to_become() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (arguments, target)) in [
        (&["drain", "2"][..], "drain"),
        (&["undrain", "2"], "undrain"),
        (&["standby", "2"], "standby"),
        (&["weight", "2", "30"], "weight?value=30"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = dir.path().join(format!("{i}.sock"));
        let server = daemon(&socket, "200 OK", r#"{"node":2}"#);
        let out = dtsctl(&[&["--socket", path(&socket)], arguments].concat());
        assert_eq!(
            server.join().unwrap(),
            format!("POST /v1/nodes/2/{target} HTTP/1.1")
        );
        assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    }
    let socket = dir.path().join("conflict.sock");
    let server = daemon(&socket, "409 Conflict", "node 2: the node is not there");
    let out = dtsctl(&["--socket", path(&socket), "drain", "2", "--wait"]);
    server.join().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("the node is not there"),
        "{out:?}"
    );
    assert_eq!(dtsctl(&["weight", "2", "101"]).status.code(), Some(2));
    assert_eq!(
        dtsctl(&["drain", "2", "--timeout", "5"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_draining_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("over.sock");
    let done = r#"{"node":2}"#.to_owned();
    let server = daemon_of_many(&socket, vec![done.clone(), node_2(false), node_2(true)]);
    let out = dtsctl(&["--socket", path(&socket), "drain", "2", "--wait"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let asked = server.join().unwrap();
    assert_eq!(asked[1..], ["GET /v1/nodes HTTP/1.1"; 2]);

    let socket = dir.path().join("late.sock");
    let server = daemon_of_many(&socket, vec![done, node_2(false)]);
    let arguments = ["drain", "2", "--wait", "--timeout", "0"];
    let out = dtsctl(&[&["--socket", path(&socket)], &arguments[..]].concat());
    server.join().unwrap();
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    assert_eq!(text(&out.stderr), "dtsctl: node 2 has 7 connections\n");
}

#[test]
fn nodes_as_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let server = daemon_of_many(&socket, vec![node_2(false)]);
    let out = dtsctl(&["--socket", path(&socket), "nodes"]);
    server.join().unwrap();
    let row = text(&out.stdout).lines().nth(1).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    let expected = [
        "2",
        "10.77.1.2",
        "alive",
        "-",
        "-",
        "draining",
        "50",
        "-",
        "7",
        "-",
        "-",
        "-",
        "-",
        "00ff",
    ];
    assert_eq!(cells, expected);
}

#[test]
fn config_check() {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../config/examples/dtsd.yaml"
    );
    let out = dtsctl(&["config", "check", example]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(text(&out.stdout), format!("{example}: ok\n"));

    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.yaml");
    let good = std::fs::read_to_string(example).unwrap();
    std::fs::write(&bad, good.replace("first_window:", "frist_window:")).unwrap();
    let line = 1 + good
        .lines()
        .position(|l| l.contains("first_window:"))
        .unwrap();
    let out = dtsctl(&["config", "check", path(&bad)]);
    assert_eq!(out.status.code(), Some(2));
    assert!(out.stdout.is_empty());
    let error = text(&out.stderr);
    assert!(
        error.starts_with(&format!("{}:{line}: ", bad.display())),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_doctor_ends_with_4_where_there_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (faults, code)) in [(0, 0), (2, 4)].into_iter().enumerate() {
        let socket = dir.path().join(format!("{i}.sock"));
        let body = format!(r#"{{"node":1,"faults":{faults},"warnings":1,"checks":[]}}"#);
        let server = daemon_of_many(&socket, vec![body.clone(), body]);
        for json in [false, true] {
            let arguments = ["--socket", path(&socket), "doctor", "--json"];
            let out = dtsctl(&arguments[..if json { 4 } else { 3 }]);
            assert_eq!(out.status.code(), Some(code), "{out:?}");
            let plain = format!("faults: {faults}, warnings: 1\n");
            assert_eq!(text(&out.stdout) == plain, !json);
        }
        assert_eq!(server.join().unwrap(), ["GET /v1/doctor HTTP/1.1"; 2]);
    }
}

#[test]
fn questions_of_explain_and_what_if() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (arguments, target)) in [
        (
            &["explain", "[2001:db8::9]:4000", "[2001:db8::1]:80"][..],
            "explain?client=[2001:db8::9]:4000&vip=[2001:db8::1]:80",
        ),
        (&["what-if", "add", "9"], "what-if?change=add&node=9"),
        (
            &["what-if", "weight", "2", "30"],
            "what-if?change=weight&node=2&weight=30",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = dir.path().join(format!("{i}.sock"));
        let server = daemon(&socket, "200 OK", r#"{"services":[]}"#);
        let out = dtsctl(&[&["--socket", path(&socket)], arguments].concat());
        assert_eq!(server.join().unwrap(), format!("GET /v1/{target} HTTP/1.1"));
        assert!(out.status.success(), "{out:?}");
    }
    for wrong in [
        &["explain", "10.0.0.9", "10.0.0.1:80"][..],
        &["what-if", "weight", "2", "101"],
    ] {
        assert_eq!(dtsctl(wrong).status.code(), Some(2));
    }
}
