//! One lab with the default settings: routing, spread, transfers, odd requests, a
//! clean capture, the C example, and what does not belong to a service.

use dts_tests::capture::Capture;
use dts_tests::client::pattern;
use dts_tests::lab::{Family, Lab, Setup, bin_dir};
use dts_tests::suite::{self, Group};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const SETUP: Setup = Setup {
    prefix: "dtst",
    nodes: 3,
    overlay: "",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};

/// The same with a link that has IPv6 and nothing else.
const SETUP_V6_LINK: Setup = Setup {
    overlay: "LINK_FAMILY=6\n",
    ..SETUP
};

fn main() -> ExitCode {
    let v6_link = Group {
        setup: SETUP_V6_LINK,
        suffix: "_over_a_v6_link",
        cases: vec![
            ("rules_name_the_node", rules_name_the_node),
            ("a_head_larger_than_a_segment", a_head_larger_than_a_segment),
            (
                "a_half_close_behind_the_request",
                a_half_close_behind_the_request,
            ),
        ],
        once: vec![("the_c_example_serves", the_c_example_serves)],
    };
    let usual = Group {
        setup: SETUP,
        suffix: "",
        cases: vec![
            ("rules_name_the_node", rules_name_the_node),
            ("real_curl_and_wrk", real_curl_and_wrk),
            (
                "sequential_connections_spread_evenly",
                sequential_connections_spread_evenly,
            ),
            ("two_hundred_at_once", two_hundred_at_once),
            ("nodes_name_clients_and_vip", nodes_name_clients_and_vip),
            (
                "a_clean_capture_when_the_client_closes",
                a_clean_capture_when_the_client_closes,
            ),
            (
                "a_clean_capture_when_the_server_closes",
                a_clean_capture_when_the_server_closes,
            ),
            ("download_of_100_mib", download_of_100_mib),
            ("upload_of_20_mib", upload_of_20_mib),
            ("a_head_in_single_bytes", a_head_in_single_bytes),
            ("a_head_larger_than_a_segment", a_head_larger_than_a_segment),
            ("a_body_in_the_same_write", a_body_in_the_same_write),
            (
                "a_body_that_fills_the_first_window",
                a_body_that_fills_the_first_window,
            ),
            (
                "a_body_that_streams_in_meanwhile",
                a_body_that_streams_in_meanwhile,
            ),
            (
                "a_half_close_behind_the_request",
                a_half_close_behind_the_request,
            ),
            ("the_c_example_serves", the_c_example_serves),
            (
                "neighbours_and_ping_of_the_vip",
                neighbours_and_ping_of_the_vip,
            ),
            (
                "option_32_on_the_wire_is_dropped",
                option_32_on_the_wire_is_dropped,
            ),
            ("a_forged_block_is_refused", a_forged_block_is_refused),
            ("a_replayed_block_is_refused", a_replayed_block_is_refused),
        ],
        once: vec![("the_paper_form_is_refused", the_paper_form_is_refused)],
    };
    suite::main(vec![usual, v6_link])
}

fn rules_name_the_node(lab: &Lab) {
    const EACH: usize = 24;
    let opened: Vec<_> = (1..=3)
        .map(|n| lab.metrics(n).sum("dts_connections_opened_total", &[]))
        .collect();
    let by_rule: [(&[&str], &str); 9] = [
        (&["path=/a/{}"], "node1"),
        (&["path=/b/{}"], "node2"),
        (&["path=/c/{}"], "node3"),
        (&["path=/h/{}", "header=Host: a.lab"], "node1"),
        (&["path=/h/{}", "header=Host: b.lab"], "node2"),
        (&["path=/h/{}", "header=Host: c.lab"], "node3"),
        (&["path=/x/{}", "header=X-Pool: a"], "node1"),
        (&["path=/x/{}", "header=X-Pool: b"], "node2"),
        (&["path=/x/{}", "header=X-Pool: c"], "node3"),
    ];
    let (path, ()) = lab.capture("client", "wire0", "rules", || {
        for (arguments, node) in by_rule {
            let count = format!("count={EACH}");
            let connections = lab.load(&[arguments, &[&count]].concat());
            lab.assert_answered(&connections, EACH, Some(node));
        }
    });
    let capture = Capture::read(lab, &path);
    // Each request by every owner: 24 requests miss one of three owners with a
    // probability of 3 x (2/3)^24 = 0.0002, 216 in all with one of 3 x (2/3)^216.
    let owners: BTreeSet<u16> = capture
        .streams
        .values()
        .flat_map(|s| s.owners.clone())
        .collect();
    assert_eq!(
        owners,
        BTreeSet::from([1, 2, 3]),
        "SYN owners by the source MAC of their SYN-ACKs"
    );
    for stream in capture.streams.values() {
        assert_eq!(stream.owners.len(), 1, "one SYN-ACK each: {stream:?}");
    }
    let elsewhere = capture
        .streams
        .values()
        .filter(|s| s.owners != [s.server])
        .count();
    assert!(
        elsewhere > 9 * EACH / 3,
        "only {elsewhere} of {} answers came from another node",
        9 * EACH
    );
    for (n, before) in (1..=3).zip(opened) {
        assert!(
            lab.metrics(n).sum("dts_connections_opened_total", &[]) > before,
            "node {n} owned no SYN"
        );
    }
}

fn real_curl_and_wrk(lab: &Lab) {
    for (path, node) in [
        ("/a/curl", "node1"),
        ("/b/curl", "node2"),
        ("/c/curl", "node3"),
    ] {
        for _ in 0..4 {
            let url = lab.url(path);
            let said = lab.exec(
                "client",
                &[
                    "curl",
                    "-s",
                    "-m",
                    "5",
                    "-w",
                    "%{http_code} %header{x-node}",
                    &url,
                ],
            );
            assert_eq!(said, format!("{node}\n200 {node}"), "{url}");
        }
    }
    // Keep-alive connections that carry many requests, in the destination's hands from the first one on.
    let url = lab.url("/b/wrk");
    let said = lab.exec(
        "client",
        &["wrk", "-t2", "-c16", "-d3s", "--timeout", "3s", &url],
    );
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    let requests: u64 = said
        .lines()
        .find_map(|l| l.trim().split_once(" requests in "))
        .and_then(|(n, _)| n.parse().ok())
        .unwrap_or_else(|| panic!("wrk said {said}"));
    assert!(requests >= 100, "{said}");
}

/// The owners' shares of `connections`, by their own count.
fn assert_even(lab: &Lab, before: &[f64], connections: usize) {
    let opened: Vec<f64> = (1..=3)
        .zip(before)
        .map(|(n, b)| lab.metrics(n).sum("dts_connections_opened_total", &[]) - b)
        .collect();
    assert_eq!(
        opened.iter().sum::<f64>(),
        connections as f64,
        "connections opened, by node: {opened:?}"
    );
    let even = connections as f64 / 3.0;
    for share in &opened {
        assert!(
            (share - even).abs() <= even * 0.15,
            "more than 15 % from even: {opened:?}"
        );
    }
}

fn sequential_connections_spread_evenly(lab: &Lab) {
    // Client ports are as good as random to a keyed hash, so a node's share is
    // binomial: of n connections it has a standard deviation of sqrt(n x 1/3 x 2/3).
    // 15 % of the mean are 3.4 of them for n = 1,000 (one false alarm in 700 runs,
    // three nodes), and 5.8 for n = 3,000 (one in 50 million).
    const COUNT: usize = 3000;
    let before: Vec<_> = (1..=3)
        .map(|n| lab.metrics(n).sum("dts_connections_opened_total", &[]))
        .collect();
    lab.assert_answered(
        &lab.load(&[&format!("count={COUNT}"), "path=/who-{}"]),
        COUNT,
        None,
    );
    assert_even(lab, &before, COUNT);
}

fn two_hundred_at_once(lab: &Lab) {
    // Single bytes, 2 ms apart: a head takes 200 ms, so that all are open together.
    const THREADS: usize = 200;
    let slowly = [
        "count=200",
        "threads=200",
        "path=/p/at-once-{}",
        "split=1",
        "split_gap_us=2000",
    ];
    lab.assert_answered(&lab.load(&slowly), THREADS, None);
    // And 200 at once that hand over in the same moment, five times.
    let connections = lab.load(&["count=1000", "threads=200", "path=/p/burst-{}"]);
    lab.assert_answered(&connections, 1000, None);
    for (path, nodes) in lab.executed("/p/burst-") {
        assert_eq!(nodes.len(), 1, "{path} was executed by {nodes:?}");
    }
}

fn nodes_name_clients_and_vip(lab: &Lab) {
    let connections = lab.load(&["count=12", "path=/p/named-{}"]);
    lab.assert_answered(&connections, 12, None);
    let clients: BTreeSet<SocketAddr> = connections
        .iter()
        .map(|c| SocketAddr::new(lab.client_address(), c.port))
        .collect();
    for client in &clients {
        let record = lab.handover_of_port(client.port());
        assert_eq!(record.map(|r| r.client), Some(client.to_string()));
    }
    // Whoever served them keeps their flows for `closing_s`, some seconds.
    let flows: BTreeSet<(String, String)> = (1..=3).flat_map(|n| lab.flows(n)).collect();
    for client in &clients {
        let wanted = (client.to_string(), lab.service());
        assert!(flows.contains(&wanted), "{wanted:?} is not in {flows:?}");
    }
}

/// 1,000 handovers in a row without loss, as the client's capture shows them.
fn clean_capture(lab: &Lab, close: &'static str) -> Capture {
    const COUNT: usize = 1000;
    let (path, connections) = lab.capture("client", "wire0", &format!("clean-{close}"), || {
        lab.load(&["count=1000", "path=/p/clean-{}", &format!("close={close}")])
    });
    lab.assert_answered(&connections, COUNT, None);
    let capture = Capture::read(lab, &path);
    assert_eq!(capture.streams.len(), COUNT, "{capture}");
    // 150 to 300 ms is the signature of a stalled window or of a retransmission time-out.
    let slow: Vec<_> = capture
        .first_bytes()
        .filter(|(_, ms)| (150.0..=300.0).contains(ms))
        .collect();
    assert!(
        slow.is_empty(),
        "first bytes after 150 to 300 ms (stream, ms): {slow:?}; {capture}"
    );
    assert_eq!(capture.first_bytes().count(), COUNT, "{capture}");
    capture
}

fn a_clean_capture_when_the_client_closes(lab: &Lab) {
    clean_capture(lab, "client").assert_clean();
}

fn a_clean_capture_when_the_server_closes(lab: &Lab) {
    let capture = clean_capture(lab, "server");
    let by_server = capture
        .streams
        .values()
        .filter(|s| s.client_closed_first == Some(false))
        .count();
    assert_eq!(
        by_server,
        capture.streams.len(),
        "connections that the server closed first"
    );
    capture.assert_clean();
}

/// Where a transfer went, by the record of its source: (source, destination).
fn ends(lab: &Lab, port: u16) -> (u16, u16) {
    let h = lab
        .handover_of_port(port)
        .unwrap_or_else(|| panic!("no node knows a handover of port {port}"));
    assert_eq!(h.outcome, "accepted", "{h:?}");
    (
        h.source,
        h.destination
            .expect("an accepted handover has a destination"),
    )
}

/// Repeats a transfer until one had a destination other than its source (each
/// time by chance, two of three: twelve tries fail once in half a million runs).
/// Every transfer must be right, whatever its ends.
fn until_elsewhere(mut transfer: impl FnMut(&'static str) -> (u16, u16)) {
    for host in ["a.lab", "b.lab", "c.lab"].into_iter().cycle().take(12) {
        let (source, destination) = transfer(host);
        assert_eq!(
            format!("{}.lab", ['a', 'b', 'c'][usize::from(destination) - 1]),
            host,
            "the rules' node"
        );
        if source != destination {
            return;
        }
    }
    panic!("twelve transfers were all handed over to their source");
}

fn download_of_100_mib(lab: &Lab) {
    let expected = std::fs::read_to_string(format!("{}/big-100M.sha256", lab.fact("STATE")))
        .expect("the lab's digest");
    until_elsewhere(|host| {
        let command = format!(
            "curl -s -m 60 -H 'Host: {host}' -w '%{{stderr}}%{{local_port}}' '{}' | sha256sum",
            lab.url("/big/100M")
        );
        let done = lab.try_exec("client", &["sh", "-c", &command]);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(
            said.split(' ').next(),
            Some(expected.trim()),
            "SHA-256 of 100 MiB from {host}: {done:?}"
        );
        ends(
            lab,
            String::from_utf8_lossy(&done.stderr)
                .trim()
                .parse()
                .expect("curl's local port"),
        )
    });
}

fn upload_of_20_mib(lab: &Lab) {
    let file = format!("{}/dts-tests-20M", lab.fact("STATE"));
    let bytes = pattern(20 << 20);
    std::fs::write(&file, &bytes).expect("the upload's source");
    let mut number = 0;
    // With `Expect: 100-continue`, as curl does it, and with the body at once.
    for expect in ["Expect: 100-continue", "Expect:"] {
        until_elsewhere(|host| {
            number += 1;
            let (host, url) = (
                format!("Host: {host}"),
                lab.url(&format!("/upload/curl-{number}")),
            );
            let curl = [
                "curl",
                "-s",
                "-m",
                "60",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{local_port}",
                "-T",
                &file,
            ];
            let said = lab.exec(
                "client",
                &[&curl[..], &["-H", expect, "-H", &host, &url]].concat(),
            );
            let (code, port) = said
                .split_once(' ')
                .unwrap_or_else(|| panic!("curl said {said}"));
            assert_eq!(code, "201", "{expect}");
            let (source, destination) = ends(lab, port.parse().expect("curl's local port"));
            let stored = std::fs::read(lab.dir(destination).join(format!("upload/curl-{number}")))
                .expect("the upload");
            // Byte for byte, which is more than equal digests say.
            assert!(
                stored == bytes,
                "what node {destination} stored differs from what was sent"
            );
            (source, destination)
        });
    }
}

fn a_head_in_single_bytes(lab: &Lab) {
    for gap in ["split_gap_us=0", "split_gap_us=1000"] {
        let connections = lab.load(&["count=30", "threads=3", "path=/b/bytes-{}", "split=1", gap]);
        lab.assert_answered(&connections, 30, Some("node2"));
    }
}

fn a_head_larger_than_a_segment(lab: &Lab) {
    for pad in ["pad=1300", "pad=3000", "pad=7000"] {
        let connections = lab.load(&["count=60", "threads=2", "path=/c/large-{}", pad]);
        lab.assert_answered(&connections, 60, Some("node3"));
    }
}

/// Uploads by the test client, and what the named node stored of them.
fn upload(lab: &Lab, name: &str, len: usize, arguments: &[&str]) {
    const COUNT: usize = 30;
    let (path, count, body) = (
        format!("path=/upload/{name}-{{}}"),
        format!("count={COUNT}"),
        format!("body={len}"),
    );
    let fixed = [
        path.as_str(),
        count.as_str(),
        "threads=2",
        "method=PUT",
        "header=Host: b.lab",
        body.as_str(),
    ];
    let connections = lab.load(&[&fixed, arguments].concat());
    lab.assert_answered(&connections, COUNT, Some("node2"));
    let expected = pattern(len);
    for c in &connections {
        assert_eq!(c.status, 201, "{c:?}");
        let stored = std::fs::read(lab.dir(2).join(&c.path[1..])).expect("the upload");
        assert!(
            stored == expected,
            "{}: {} bytes stored, or other ones than were sent",
            c.path,
            stored.len()
        );
    }
}

fn a_body_in_the_same_write(lab: &Lab) {
    upload(lab, "pipelined-small", 300, &[]);
    upload(lab, "pipelined", 9000, &[]);
    // More than an intake's first window holds.
    upload(lab, "pipelined-large", 300_000, &[]);
}

fn a_body_that_fills_the_first_window(lab: &Lab) {
    const COUNT: usize = 12;
    const LEN: usize = 300_000;
    for chunk in ["body_chunk=0", "body_chunk=1000", "body_chunk=77"] {
        let name = chunk.replace('=', "-");
        let taken = || lab.metrics(2).sum("dts_link_messages_total", &[]);
        let before = taken();
        // No proxy reads: the clients send all that they may before any handover.
        let asleep: Vec<_> = (1..=3).map(|n| lab.paused(n, "proxy")).collect();
        let path = format!("path=/upload/full-{name}-{{}}");
        let load = lab.start_load(&[
            "count=12",
            "threads=12",
            "method=PUT",
            "header=Host: b.lab",
            "body=300000",
            chunk,
            &path,
        ]);
        std::thread::sleep(Duration::from_millis(1500));
        drop(asleep);
        lab.assert_answered(&load.connections(), COUNT, Some("node2"));
        // Some 60,000 bytes of a request are 45 messages of 1,344 bytes; splice, end
        // mark and held frames come on top. Many times more of them would be a storm
        // of repetitions, which at a busy destination makes the losses that it answers.
        let messages = (taken() - before) / COUNT as f64;
        assert!(
            messages < 150.0,
            "{chunk}: {messages} link messages for each handover to node 2"
        );
        let expected = pattern(LEN);
        for i in 0..COUNT {
            let stored = std::fs::read(lab.dir(2).join(format!("upload/full-{name}-{i}")))
                .expect("the upload");
            assert!(
                stored == expected,
                "{chunk}, upload {i}: {} bytes stored, or other ones than were sent",
                stored.len()
            );
        }
    }
}

fn a_body_that_streams_in_meanwhile(lab: &Lab) {
    upload(lab, "slow", 4000, &["body_chunk=50", "body_gap_us=100"]);
    upload(lab, "slower", 3000, &["body_chunk=100", "body_gap_us=2000"]);
    upload(lab, "fast", 500_000, &["body_chunk=1000", "body_gap_us=0"]);
}

fn a_half_close_behind_the_request(lab: &Lab) {
    let connections = lab.load(&["count=200", "threads=2", "path=/b/half-{}", "half_close=1"]);
    lab.assert_answered(&connections, 200, None);
    let slow: Vec<_> = connections
        .iter()
        .filter(|c| c.first_byte_ms > 150.0)
        .collect();
    assert!(slow.is_empty(), "{slow:?}");
    // The FIN rides on the last byte of a body.
    upload(lab, "half", 5000, &["half_close=1"]);
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn the_c_example_serves(lab: &Lab) {
    // Installed and compiled as its user would.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/libdts");
    let dest = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libdts");
    let program = dest.join("c-proxy");
    run(Command::new(root.join("install.sh"))
        .env("BUILD_DIR", bin_dir())
        .env("DESTDIR", &dest)
        .env("PREFIX", "/usr"));
    run(Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(root.join("examples/proxy.c"))
        .arg("-I")
        .arg(dest.join("usr/include"))
        .arg("-L")
        .arg(dest.join("usr/lib"))
        .arg("-ldts"));
    let program = program.to_str().expect("a UTF-8 path");
    let library = format!("LD_LIBRARY_PATH={}", dest.join("usr/lib").display());
    let destinations = [1, 2, 3].map(|n| format!("{}:80", lab.fact(&format!("NODE{n}_LINK"))));
    let (mut stopped, mut running) = (Vec::new(), Vec::new());
    for n in 1..=3 {
        stopped.push(lab.without(n, "proxy"));
        let rpc = format!("DTS_RPC_SOCKET={}/rpc.sock", lab.dir(n).display());
        let arguments = [
            "env",
            &library,
            &rpc,
            program,
            &Lab::proxy_port(n).to_string(),
            &destinations[0],
            &destinations[1],
            &destinations[2],
        ];
        running.push(lab.spawn(&format!("node{n}"), &arguments));
    }
    for n in 1..=3 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = format!("sport = :{}", Lab::proxy_port(n));
        let listens = || lab.exec(&format!("node{n}"), &["ss", "-Hltn", &port]);
        while listens().is_empty() {
            assert!(
                Instant::now() < deadline,
                "the C proxy of node {n} does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
    let url = lab.url("/c-proxy");
    let mut elsewhere = 0;
    for _ in 0..36 {
        let said = lab.exec(
            "client",
            &[
                "curl",
                "-s",
                "-m",
                "5",
                "-w",
                "%{http_code} %{local_port}",
                &url,
            ],
        );
        let (node, rest) = said
            .split_once('\n')
            .unwrap_or_else(|| panic!("curl said {said}"));
        assert!(rest.starts_with("200 "), "curl said {said}");
        *by_node.entry(node.to_owned()).or_default() += 1;
        let (source, destination) = ends(lab, rest[4..].parse().expect("curl's local port"));
        elsewhere += usize::from(source != destination);
        assert_eq!(node, format!("node{destination}"));
    }
    // Each proxy takes the destinations in turn.
    assert_eq!(by_node.len(), 3, "{by_node:?}");
    assert!(elsewhere > 0, "all were handed over to their source");
    drop(running);
}

fn neighbours_and_ping_of_the_vip(lab: &Lab) {
    let (vip, mac) = (lab.vip(), lab.fact("CLUSTER_MAC"));
    lab.exec("client", &["ip", "neigh", "flush", "dev", "wire0"]);
    let targets = [vip.to_owned()]
        .into_iter()
        .chain((1..=3).map(|n| lab.on_wire(n)));
    for target in targets {
        let said = lab.exec(
            "client",
            &["ping", "-c", "10", "-i", "0.1", "-W", "2", &target],
        );
        assert!(
            said.contains("10 packets transmitted, 10 received") && !said.contains("DUP!"),
            "{said}"
        );
    }
    // Several clients, so that several nodes own their echo requests.
    for last in 210..218 {
        let address = lab.on_wire(last);
        let mut add = vec!["ip", "addr", "add", &address, "dev", "wire0"];
        let net = match lab.family() {
            Family::V4 => format!("{address}/24"),
            Family::V6 => format!("{address}/64"),
        };
        add[3] = &net;
        if lab.family() == Family::V6 {
            add.push("nodad");
        }
        lab.exec("client", &add);
        let said = lab.try_exec(
            "client",
            &[
                "ping", "-c", "3", "-i", "0.1", "-W", "2", "-I", &address, vip,
            ],
        );
        lab.exec("client", &["ip", "addr", "del", &net, "dev", "wire0"]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(
            said.contains("3 packets transmitted, 3 received") && !said.contains("DUP!"),
            "{address}: {said}"
        );
    }
    let neighbour = lab.exec("client", &["ip", "neigh", "show", vip]);
    assert!(neighbour.contains(mac), "{vip}: {neighbour}");
    // A switch that learned the cluster's address would stop flooding.
    let learned = lab.exec("sw", &["bridge", "fdb", "show"]);
    assert!(learned.contains(lab.fact("NODE1_WIRE_MAC")), "{learned}");
    assert!(!learned.contains(mac), "{learned}");
}

/// The script that sends raw frames.
fn frames(lab: &Lab, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/frames.py");
    let namespaces = ["client", "node1", "node2"].map(|n| format!("{n}={}", lab.namespace(n)));
    let done = Command::new("python3")
        .arg(script)
        .args(&namespaces)
        .args(arguments)
        .output()
        .expect("python3");
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn drops(lab: &Lab, node: u16, reason: &str) -> f64 {
    lab.metrics(node)
        .sum("dts_drops_total", &[("reason", reason)])
}

fn option_32_on_the_wire_is_dropped(lab: &Lab) {
    let before: Vec<f64> = (1..=3).map(|n| drops(lab, n, "option32_on_wire")).collect();
    // Nobody bears this client's address, so no stack resets its connections.
    let said = frames(lab, &["option32", "5", lab.vip(), &lab.on_wire(201)]);
    assert_eq!(
        said.trim(),
        "answers 0",
        "somebody answered a SYN with option 32 on the wire"
    );
    for (n, before) in (1..=3).zip(before) {
        // The wire floods: every node hears and drops each of the five.
        assert_eq!(drops(lab, n, "option32_on_wire") - before, 5.0, "node {n}");
    }
}

/// A splice SYN from another node to node 2, as captured on node 2's link.
fn captured_splice(lab: &Lab, tag: &str) -> (String, String) {
    let (path, _) = lab.capture("node2", "link0", tag, || {
        // By chance node 2 owns a third of them: twelve are enough.
        lab.assert_answered(
            &lab.load(&["count=24", &format!("path=/b/{tag}-{{}}")]),
            24,
            None,
        );
    });
    let path = path.to_str().expect("a UTF-8 path").to_owned();
    (path, format!("/b/{tag}-"))
}

fn assert_block_refused(lab: &Lab, how: &str, reason: &str) {
    let (pcap, part) = captured_splice(lab, how);
    let (before, executed) = (drops(lab, 2, reason), lab.executed(&part));
    assert_eq!(
        frames(lab, &[how, &pcap]).trim(),
        "answers 0",
        "node 2 answered"
    );
    assert_eq!(drops(lab, 2, reason) - before, 1.0, "{reason}");
    assert_eq!(
        lab.executed(&part),
        executed,
        "a request was executed again"
    );
    lab.assert_answered(&lab.load(&["count=12", "path=/b/after-{}"]), 12, None);
}

fn a_forged_block_is_refused(lab: &Lab) {
    assert_block_refused(lab, "forge", "block_forged");
}

fn a_replayed_block_is_refused(lab: &Lab) {
    assert_block_refused(lab, "replay", "block_replayed");
}

fn the_paper_form_is_refused(lab: &Lab) {
    let before = drops(lab, 2, "paper_form");
    assert_eq!(frames(lab, &["paper"]).trim(), "refused");
    assert_eq!(drops(lab, 2, "paper_form") - before, 1.0);
}
