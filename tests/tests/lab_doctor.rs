//! What `dtsctl explain`, `what-if` and `doctor` say of a cluster that is well, and of nodes
//! that have the wrong key, another version, another's id, a clock that is off: those are
//! refused and explained, and connections are answered all the while.

use dts_tests::cluster::{dtsctl, is_whole, must, settle, until};
use dts_tests::lab::{Lab, Running, Setup};
use dts_tests::suite::{self, Group};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

const NODES: u16 = 3;
const SETUP: Setup = Setup {
    prefix: "dtse",
    nodes: NODES,
    overlay: "MEGABYTES=128\nDRAIN_S=0\nCLOSING_S=1\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};
/// Exit code of `dtsctl doctor` with a fault.
const FAULT: i32 = 4;

fn main() -> ExitCode {
    suite::main(vec![Group {
        setup: SETUP,
        suffix: "",
        cases: vec![(
            "a_flow_that_was_handed_over_is_explained",
            a_flow_that_was_handed_over_is_explained,
        )],
        once: vec![
            (
                "a_cluster_that_is_well_has_no_fault",
                a_cluster_that_is_well_has_no_fault,
            ),
            ("what_if_is_what_then_happens", what_if_is_what_then_happens),
            (
                "settings_that_somebody_changed_are_found",
                settings_that_somebody_changed_are_found,
            ),
            (
                "noise_and_other_versions_are_explained",
                noise_and_other_versions_are_explained,
            ),
            (
                "a_node_with_the_wrong_key_is_explained",
                a_node_with_the_wrong_key_is_explained,
            ),
            (
                "a_node_with_the_id_of_another_is_explained",
                a_node_with_the_id_of_another_is_explained,
            ),
            (
                "clocks_that_are_off_are_explained",
                clocks_that_are_off_are_explained,
            ),
        ],
    }])
}

/// What dtsctl says in JSON, whatever its exit code.
#[track_caller]
fn json(lab: &Lab, node: u16, arguments: &[&str]) -> Value {
    let out = dtsctl(lab, node, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out:?}"))
}

/// What a node's doctor finds.
struct Doctor(Value);

impl Doctor {
    #[track_caller]
    fn at(lab: &Lab, node: u16) -> Self {
        let out = dtsctl(lab, node, &["doctor", "--json"]);
        let answer: Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        let code = if answer["faults"] == 0 { 0 } else { FAULT };
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        Self(answer)
    }

    fn checks(&self) -> &[Value] {
        self.0["checks"].as_array().map_or(&[], Vec::as_slice)
    }

    /// What `check` found of this verdict.
    fn found(&self, check: &str, verdict: &str) -> Vec<&str> {
        let is_it = |c: &&Value| c["check"] == check && c["verdict"] == verdict;
        let all = self.checks().iter().filter(is_it);
        all.filter_map(|c| c["found"].as_str()).collect()
    }

    /// What is wrong, for who reads of a failure.
    fn wrong(&self) -> Vec<String> {
        let bad = |c: &&Value| c["verdict"] == "fault" || c["verdict"] == "warning";
        self.checks()
            .iter()
            .filter(bad)
            .map(Value::to_string)
            .collect()
    }
}

/// Waits until `node`'s doctor finds something of `check` that has all these parts.
#[track_caller]
fn explained(lab: &Lab, node: u16, check: &str, verdict: &str, parts: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let doctor = Doctor::at(lab, node);
        let has_all = |found: &&str| parts.iter().all(|p| found.contains(p));
        if doctor.found(check, verdict).iter().any(has_all) {
            return;
        }
        let wrong = doctor.wrong();
        assert!(
            Instant::now() < deadline,
            "no {verdict} of {check} with {parts:?}: {wrong:#?}"
        );
        sleep(Duration::from_millis(200));
    }
}

fn a_cluster_that_is_well_has_no_fault(lab: &Lab) {
    settle(lab);
    // Nodes that start may hear of an earlier start's last words.
    for node in lab.nodes() {
        let doctor = Doctor::at(lab, node);
        assert!(doctor.wrong().is_empty(), "{:#?}", doctor.wrong());
        for check in [
            "hugepages",
            "twin_settings",
            "addresses",
            "routing_rules",
            "tcp_settings",
            "fast_open",
            "backlog",
            "processors",
            "permissions",
            "ports",
            "start",
            "members",
            "answers",
            "version",
            "configuration",
            "cluster_key",
            "tcp_options",
            "tcp_rmem",
            "clock",
            "views",
            "minority",
            "owners",
            "applications",
            "vip_claims",
            "cluster_mac",
            "refused_messages",
        ] {
            assert_eq!(doctor.found(check, "ok").len(), 1, "{check}: {}", doctor.0);
        }
        let devices = doctor.found("driver", "not_checked");
        assert!(
            devices.len() == 4 && devices[0].contains("not a PCI device"),
            "{devices:?}"
        );
    }
    let out = dtsctl(lab, 1, &["doctor"]);
    assert_eq!(out.status.code(), Some(0));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.ends_with("faults: 0, warnings: 0\n"), "{text}");
}

/// The buckets of each service by node, as the workers of `node` use them.
fn buckets(lab: &Lab, node: u16) -> Vec<BTreeMap<String, u64>> {
    let status = json(lab, node, &["status"]);
    let shares = |s: &Value| {
        let all = s["buckets"].as_object().expect("buckets by node").iter();
        all.map(|(n, b)| (n.clone(), b.as_u64().expect("a number")))
            .collect()
    };
    status["services"]
        .as_array()
        .expect("services")
        .iter()
        .map(shares)
        .collect()
}

/// The same as `what-if` foretells them.
fn foretold(answer: &Value) -> Vec<BTreeMap<String, u64>> {
    let shares = |s: &Value| {
        let all = s["nodes"].as_array().expect("nodes").iter();
        all.map(|n| {
            (
                n["node"].to_string(),
                n["after"].as_u64().expect("a number"),
            )
        })
        .collect()
    };
    answer["services"]
        .as_array()
        .expect("services")
        .iter()
        .map(shares)
        .collect()
}

fn what_if_is_what_then_happens(lab: &Lab) {
    settle(lab);
    // Each begins with what the one before has left.
    for change in [
        &["drain", "2"][..],
        &["weight", "3", "50"],
        &["undrain", "2"],
        &["standby", "1"],
        &["undrain", "1"],
        &["weight", "3", "100"],
    ] {
        let before = buckets(lab, 1);
        let answer = json(lab, 3, &[&["what-if"], change].concat());
        let after = foretold(&answer);
        assert_eq!(after.len(), 2, "{answer}");
        let moved = answer["services"][0]["moved"].as_u64().expect("a number");
        assert!(moved > 0, "{answer}");
        assert_eq!(buckets(lab, 1), before, "it only asked");
        must(lab, 2, change);
        for node in lab.nodes() {
            // Buckets that are given away are kept for a moment.
            let same = || buckets(lab, node) == after;
            until("what was foretold", Duration::from_secs(3), same);
        }
    }
    let out = dtsctl(lab, 1, &["what-if", "drain", "9"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("node 9 is not there"),
        "{out:?}"
    );
    settle(lab);
}

/// Runs a setting of the kernel's on a node until dropped.
struct Sysctl<'a>(&'a Lab, u16, String);

impl<'a> Sysctl<'a> {
    fn set(lab: &'a Lab, node: u16, name: &'static str, value: &str, back: &str) -> Self {
        lab.exec(
            &format!("node{node}"),
            &["sysctl", "-q", "-w", &format!("{name}={value}")],
        );
        Self(lab, node, back.to_owned())
    }
}

impl Drop for Sysctl<'_> {
    fn drop(&mut self) {
        self.0
            .try_exec(&format!("node{}", self.1), &["sysctl", "-q", "-w", &self.2]);
    }
}

fn settings_that_somebody_changed_are_found(lab: &Lab) {
    settle(lab);
    let name = "net.ipv4.conf.dtsw.rp_filter";
    let strict = Sysctl::set(lab, 1, name, "1", "net.ipv4.conf.dtsw.rp_filter=0");
    explained(lab, 1, "twin_settings", "fault", &[name, "is 1, not 0"]);
    drop(strict);
    let rmem = lab.exec("node3", &["sysctl", "-n", "net.ipv4.tcp_rmem"]);
    let back = rmem.split_whitespace().collect::<Vec<_>>().join(" ");
    let back = format!("net.ipv4.tcp_rmem={back}");
    let smaller = Sysctl::set(lab, 3, "net.ipv4.tcp_rmem", "4096 65536 1048576", &back);
    let parts = ["4096 65536 1048576 on node 3"];
    explained(lab, 1, "tcp_rmem", "warning", &parts);
    drop(smaller);
    let vip = format!("{}/32", lab.vip());
    lab.exec("node2", &["ip", "addr", "del", &vip, "dev", "dtsw"]);
    let doctor = Doctor::at(lab, 2);
    lab.exec("node2", &["ip", "addr", "add", &vip, "dev", "dtsw"]);
    let missing = doctor.found("addresses", "fault").join(" ");
    assert_eq!(missing, format!("missing: {} on dtsw", lab.vip()));
    for node in lab.nodes() {
        let wrong = Doctor::at(lab, node).wrong();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn link(lab: &Lab, node: u16) -> String {
    lab.fact(&format!("NODE{node}_LINK")).to_owned()
}

/// Sends a datagram to the membership's port of a node, bytes as `printf` takes them.
fn datagram(lab: &Lab, from: u16, to: u16, bytes: &str) {
    let command = format!("printf '{bytes}' >/dev/udp/{}/7946", link(lab, to));
    lab.exec(&format!("node{from}"), &["bash", "-c", &command]);
}

/// Connections that go on while a test does something.
fn load(lab: &Lab) -> Running {
    lab.start_load(&["count=300", "threads=2", "path=/who/doctor-{}"])
}

#[track_caller]
fn all_answered(lab: &Lab, load: Running) {
    lab.assert_answered(&load.connections(), 300, None);
}

fn noise_and_other_versions_are_explained(lab: &Lab) {
    settle(lab);
    let load = load(lab);
    let changes = lab.total("dts_member_changes_total", &[]);
    let counted = |result| {
        lab.metrics(1)
            .sum("dts_membership_messages_total", &[("result", result)])
    };
    let before = (counted("version"), counted("malformed"));
    let other = "DTSM\\002 and whatever the next version says";
    for _ in 0..5 {
        datagram(lab, 3, 1, other);
        datagram(lab, 2, 1, "noise");
        datagram(lab, 2, 1, "DTSM\\001");
    }
    let (two, three) = (link(lab, 2), link(lab, 3));
    let from = |address: &str, node: u16| format!("{address} (node {node})");
    explained(
        lab,
        1,
        "refused_messages",
        "fault",
        &[
            "node 1 refused",
            "`version`",
            &from(&three, 3),
            "another version",
        ],
    );
    // Whoever is asked hears of it.
    explained(
        lab,
        2,
        "refused_messages",
        "warning",
        &["node 1 refused", "`malformed`", &from(&two, 2)],
    );
    assert_eq!(counted("version") - before.0, 5.0);
    assert!(counted("malformed") - before.1 >= 10.0);
    all_answered(lab, load);
    assert_eq!(
        lab.total("dts_member_changes_total", &[]),
        changes,
        "nobody else was disturbed"
    );
    assert!(is_whole(lab));
}

/// A node whose configuration is another one until this is dropped.
struct Altered<'a> {
    lab: &'a Lab,
    node: u16,
    file: PathBuf,
    original: String,
}

impl<'a> Altered<'a> {
    fn new(lab: &'a Lab, node: u16, change: impl FnOnce(&str) -> String) -> Self {
        let file = lab.dir(node).join("dtsd.yaml");
        let original =
            fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let changed = change(&original);
        assert_ne!(changed, original);
        let altered = Self {
            lab,
            node,
            file,
            original,
        };
        lab.lab(&["stop", &node.to_string(), "dtsd"]);
        fs::write(&altered.file, changed).expect("the lab's own file");
        lab.lab(&["start", &node.to_string(), "dtsd"]);
        altered
    }
}

impl Drop for Altered<'_> {
    fn drop(&mut self) {
        // The next test will notice a node that is not as it was.
        let _ = fs::write(&self.file, &self.original);
        let node = self.node.to_string();
        self.lab.lab(&["stop", &node, "dtsd"]);
        self.lab.lab(&["start", &node, "dtsd"]);
    }
}

/// The other two are one cluster, in which everything is answered, and are not disturbed by
/// the third, which has noticed that it is alone.
#[track_caller]
fn others_go_on(lab: &Lab, third: u16, explain: impl FnOnce()) {
    let alive = |answer: &Value| {
        let nodes = answer["nodes"].as_array().expect("nodes").iter();
        nodes.filter(|n| n["member"] == "alive").count()
    };
    let apart = |node: u16| {
        let answer = json(lab, node, &["nodes"]);
        if node == third {
            // It may hear others who do not listen to it.
            alive(&answer) == 1 || !answer["superseded"].is_null()
        } else {
            alive(&answer) == 2
        }
    };
    let parted = || lab.nodes().all(apart);
    until("the third is alone", Duration::from_secs(5), parted);
    let load = load(lab);
    explain();
    all_answered(lab, load);
    assert!(parted(), "the others see each other");
}

fn a_node_with_the_wrong_key_is_explained(lab: &Lab) {
    settle(lab);
    let altered = Altered::new(lab, 3, |text| {
        text.replace(
            "000102030405060708090a0b0c0d0e0f",
            "f00102030405060708090a0b0c0d0e0f",
        )
    });
    let (one, three) = (link(lab, 1), link(lab, 3));
    others_go_on(lab, 3, || {
        let parts = [
            "node 1 refused",
            "`key`",
            &three,
            "a key that this node does not have",
        ];
        explained(lab, 1, "refused_messages", "fault", &parts);
        explained(lab, 1, "members", "warning", &["node 3", "is left"]);
        // And by itself, for whom all others have the wrong one.
        explained(
            lab,
            3,
            "refused_messages",
            "fault",
            &["node 3 refused", "`key`", &one],
        );
        let explained = json(lab, 1, &["explain", "192.0.2.7:4000", &lab.service()]);
        let (share, said) = (&explained["shares"][2], &explained["members"][2]);
        assert_eq!(
            (&share["node"], &share["standing"]),
            (&3.into(), &"absent".into())
        );
        assert!(
            said["answer"]
                .as_str()
                .is_some_and(|a| a.starts_with("it is")),
            "{said}"
        );
    });
    drop(altered);
    settle(lab);
}

fn a_node_with_the_id_of_another_is_explained(lab: &Lab) {
    settle(lab);
    let (two, three) = (link(lab, 2), link(lab, 3));
    let altered = Altered::new(lab, 3, |text| {
        // It takes itself for node 2, at its own address.
        let members = text
            .replace(&format!("link: \"{two}\""), "link: \"other\"")
            .replace(&format!("link: \"{three}\""), &format!("link: \"{two}\""))
            .replace("link: \"other\"", &format!("link: \"{three}\""));
        members.replacen("node: 3\n", "node: 2\n", 1)
    });
    others_go_on(lab, 3, || {
        let parts = [
            "node 1 refused",
            "`duplicate_id`",
            &three,
            "two nodes use one id",
        ];
        explained(lab, 1, "refused_messages", "fault", &parts);
        // To node 2 it speaks as to node 3.
        let parts = ["node 2 refused", "`misdirected`", &three];
        explained(lab, 1, "refused_messages", "fault", &parts);
    });
    drop(altered);
    settle(lab);
}

/// The shim that sets a program's clock ahead.
fn clock_shim() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab_doctor/clock.c");
    let shim = Path::new(SETUP.scratch).join("clock.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
    let out = cc.arg(&shim).arg(source).arg("-ldl").output();
    let out = out.unwrap_or_else(|e| panic!("cc: {e}"));
    assert!(out.status.success(), "{out:?}");
    shim
}

fn clocks_that_are_off_are_explained(lab: &Lab) {
    settle(lab);
    const AHEAD: Duration = Duration::from_secs(12);
    let shim = clock_shim();
    let restart = || lab.lab(&["restart", "3", "dtsd"]);
    lab.lab(&["stop", "3", "dtsd"]);
    let (shim, ahead) = (
        shim.to_str().expect("a UTF-8 path"),
        AHEAD.as_secs().to_string(),
    );
    lab.start_with(
        3,
        "dtsd",
        &[("LD_PRELOAD", shim), ("CLOCK_AHEAD_S", &ahead)],
    );
    let since = Instant::now();
    settle(lab);
    // Such a node is one like others, and a warning.
    explained(
        lab,
        1,
        "clock",
        "warning",
        &["node 3's is 12.", "ahead of this node's"],
    );
    let wrong = Doctor::at(lab, 3);
    let behind = wrong.found("clock", "warning").join(" ");
    assert!(
        behind.contains("node 1's is ") && behind.contains("behind"),
        "{:#?}",
        wrong.wrong()
    );
    // Now it is set right, which is back; others have heard of a later start.
    restart();
    assert!(
        since.elapsed() < AHEAD,
        "too late for this test: {:?}",
        since.elapsed()
    );
    let three = link(lab, 3);
    others_go_on(lab, 3, || {
        let parts = ["node 1 refused", "`replayed`", &three, "clock was set back"];
        explained(lab, 1, "refused_messages", "fault", &parts);
        // The others have told it so.
        explained(lab, 3, "start", "fault", &["s later", "owns nothing"]);
    });
    sleep((AHEAD + Duration::from_millis(500)).saturating_sub(since.elapsed()));
    // What the doctor says helps.
    restart();
    settle(lab);
}

/// A download that takes a while, answered by node 2.
fn download(lab: &Lab) -> Running {
    let url = lab.url("/big/100M");
    let arguments = [
        "curl",
        "-s",
        "-S",
        "-f",
        "-H",
        "Host: b.lab",
        "-o",
        "/dev/null",
        "--limit-rate",
        "4M",
        &url,
    ];
    lab.spawn("client", &arguments)
}

/// Client of a connection that node 2 serves and another node handed over, and that node.
fn handed_over(lab: &Lab, known: &[String]) -> Option<(String, u16)> {
    let flows = json(lab, 2, &["flows", "--limit", "10000"]);
    let new = |f: &&Value| {
        f["state"] == "served"
            && f["client"]
                .as_str()
                .is_some_and(|c| !known.iter().any(|k| k == c))
    };
    let flow = flows.as_array()?.iter().find(new)?;
    let client = flow["client"].as_str()?.to_owned();
    Some((client, u16::try_from(flow["peer"].as_u64()?).ok()?))
}

fn a_flow_that_was_handed_over_is_explained(lab: &Lab) {
    settle(lab);
    let mut known: Vec<String> = lab.flows(2).into_iter().map(|(client, _)| client).collect();
    let mut running = Vec::new();
    // One third of the connections begin where they are answered.
    let (client, owner) = loop {
        assert!(running.len() < 12, "every connection begins at node 2");
        running.push(download(lab));
        let mut found = None;
        until("the download is served", Duration::from_secs(5), || {
            found = handed_over(lab, &known);
            found.is_some()
        });
        let (client, owner) = found.expect("just found");
        if owner != 2 {
            break (client, owner);
        }
        let own = json(lab, 1, &["explain", &client, &lab.service()]);
        let fcb = &own["members"][1]["fcb"];
        assert_eq!(
            (&own["owner"], &fcb["state"], &fcb["from"]),
            (&2.into(), &"served".into(), &2.into())
        );
        known.push(client);
    };
    let port: u16 = client
        .rsplit(':')
        .next()
        .and_then(|p| p.parse().ok())
        .expect("a port");
    let handover = lab.handover_of_port(port).expect("it was handed over");
    assert_eq!((handover.source, handover.destination), (owner, Some(2)));
    let third = 6 - 2 - owner;
    for node in lab.nodes() {
        let e = json(lab, node, &["explain", &client, &lab.service()]);
        assert_eq!(
            (&e["owner"], &e["agreed"]),
            (&owner.into(), &true.into()),
            "{e}"
        );
        assert_eq!(e["policy"], "flow-hash");
        assert!(
            e["why"]
                .as_str()
                .is_some_and(|w| w.starts_with(&format!("node {owner} has 136"))),
            "{e}"
        );
        let member = |n: u16| &e["members"][usize::from(n) - 1];
        for n in lab.nodes() {
            assert_eq!(
                (&member(n)["answer"], &member(n)["owner"]),
                (&"ok".into(), &owner.into()),
                "{e}"
            );
            assert_eq!(
                (&member(n)["bucket"], &member(n)["epoch"]),
                (&e["bucket"], &e["epoch"]),
                "{e}"
            );
        }
        let (from, at) = (&member(owner)["fcb"], &member(2)["fcb"]);
        assert_eq!(
            (&from["state"], &from["role"], &from["to"]),
            (&"tombstone".into(), &"former".into(), &2.into())
        );
        assert_eq!(
            (&at["state"], &at["role"], &at["from"]),
            (&"served".into(), &"destination".into(), &owner.into())
        );
        assert!(
            at["idle_ms"].as_u64() < at["age_ms"].as_u64() || at["age_ms"] == 0,
            "{e}"
        );
        assert_eq!(member(third)["fcb"], Value::Null);
    }
    let text = dtsctl(lab, third, &["explain", &client, &lab.service()]);
    assert!(
        String::from_utf8_lossy(&text.stdout).contains(&format!("owner    node {owner}")),
        "{text:?}"
    );
    // One that cannot answer is listed as such.
    let paused = lab.paused(third, "dtsd");
    let e = json(lab, owner, &["explain", &client, &lab.service()]);
    drop(paused);
    let silent = &e["members"][usize::from(third) - 1];
    assert!(
        silent["answer"] != "ok" && silent["fcb"].is_null(),
        "{silent}"
    );
    assert_eq!(e["members"][1]["fcb"]["state"], "served", "{e}");
    drop(running);
    settle(lab);
    let nothing = dtsctl(lab, 1, &["explain", &client, "192.0.2.1:80"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&nothing.stderr).contains("there is no service at 192.0.2.1:80")
    );
}
