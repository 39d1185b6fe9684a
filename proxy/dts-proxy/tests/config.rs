//! The configuration: what is accepted, and the one line that a mistake gives.

use dts_proxy::config::{Full, Protocol, Unavailable, parse};
use dts_proxy::policy::Policy;
use dts_proxy::policy::lard::{Assign, Params};
use dts_proxy::policy::sticky::By;
use std::process::Command;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../examples/dts-proxy.yaml");

const GOOD: &str = "\
listen: 127.0.0.1:8001
pools:
  - name: a
    members:
      - { address: 10.77.1.1:80 }
      - { address: 10.77.1.2:80, weight: 5 }
rules:
  - { path_prefix: /a/, pool: a }
default_pool: a
";

#[test]
fn example_and_defaults() {
    let config = parse(EXAMPLE, "x").unwrap();
    assert_eq!((config.pools.len(), config.rules.len()), (4, 6));
    let policy = |pool: usize| &config.policies[config.pools[pool].policy];
    assert_eq!((policy(0), policy(1)), (&Policy::PathHash, &Policy::Weight));
    let by_cookie = Policy::Sticky(By::Cookie("JSESSIONID".into()));
    assert_eq!(policy(3), &by_cookie);
    let names: Vec<_> = config.pools[3]
        .members
        .iter()
        .map(|m| m.name.as_deref())
        .collect();
    assert_eq!(names, [Some("node1"), Some("node2")]);
    let bounded = &config.policies[config.rules[5].policy];
    assert_eq!(bounded, &Policy::BoundedHash { slack_percent: 25 });
    assert_eq!(config.rules[5].pool, 0);
    assert_eq!(config.rules[0].policy, config.pools[0].policy);
    let backups: Vec<_> = config.pools[0].members.iter().map(|m| m.backup).collect();
    assert_eq!(backups, [false, false, true]);
    let cached = &config.pools[2];
    assert_eq!(
        (cached.max_connections, cached.full),
        (Some(500), Full::Next)
    );
    let wait = (cached.queue_length, cached.queue_timeout);
    assert_eq!(wait, (200, Duration::from_millis(500)));
    assert_eq!(cached.unavailable, Unavailable::Answer503);
    assert_eq!(config.local, Some("10.77.1.1".parse().unwrap()));
    assert_eq!(config.nodes.interval, Duration::from_millis(100));
    assert_eq!(config.nodes.stale, Duration::from_secs(1));
    // What the example says of LARD's values is that they are the defaults.
    let least = GOOD.replace(
        "    members:",
        "    balance: lard-replication\n    members:",
    );
    let least = parse(&least, "x").unwrap();
    assert_eq!(policy(2), &least.policies[0]);
    let paper = Params {
        low: 25,
        high: 65,
        replicas: Some(Duration::from_secs(20)),
        targets: 65_536,
        assign: Assign::Hash,
    };
    assert_eq!(policy(2), &Policy::Lard(paper.clone()));
    let basic = GOOD.replace("    members:", "    balance: lard\n    members:");
    let basic = parse(&basic, "x").unwrap();
    let replicas = None;
    assert_eq!(basic.policies, [Policy::Lard(Params { replicas, ..paper })]);

    let config = parse(GOOD, "x").unwrap();
    assert_eq!(config.protocol, Protocol::Http);
    assert_eq!(config.rpc_socket.to_str(), Some("/run/dts/rpc.sock"));
    assert_eq!(config.limits.head_bytes, 16384);
    assert_eq!(config.limits.head_timeout.as_millis(), 10_000);
    assert_eq!(config.limits.connections, 4096);
    assert_eq!((config.retries, config.listen_line), (2, 1));
    assert_eq!(config.policies, [Policy::PathHash]);
    let pool = &config.pools[0];
    assert_eq!((pool.max_connections, pool.full), (None, Full::Next));
    assert_eq!(
        (pool.queue_length, pool.queue_timeout.as_millis()),
        (0, 1000)
    );
    assert_eq!(pool.unavailable, Unavailable::Close);
    assert!(pool.members.iter().all(|m| !m.backup && m.name.is_none()));
    let slow = format!("{GOOD}nodes: {{ interval_ms: 5000 }}\n");
    let slow = parse(&slow, "x").unwrap();
    assert_eq!(slow.nodes.stale, Duration::from_secs(10));
    let weights: Vec<_> = config.pools[0].members.iter().map(|m| m.weight).collect();
    assert_eq!(weights, [100, 5]);
}

#[test]
fn mistakes() {
    // A change to GOOD, and the line and a part of the message it must give.
    let cases = [
        (
            "listen: 127.0.0.1:8001",
            "listen: nowhere",
            1,
            "socket address",
        ),
        ("listen: 127.0.0.1:8001", "listen: 127.0.0.1:0", 1, "port 0"),
        ("listen: 127.0.0.1:8001", "lisen: 127.0.0.1:1", 1, "lisen"),
        ("default_pool: a", "default_pool: z", 9, "no pool \"z\""),
        (
            "default_pool: a",
            "default_pool: a\ndefault_pool: a",
            10,
            "default_pool",
        ),
        (
            "default_pool: a",
            "default_pool: a\nretries: 17",
            10,
            "not in 0..16",
        ),
        ("default_pool: a", "default_pool: a\nretries: -1", 10, ""),
        (
            "default_pool: a",
            "default_pool: a\nprotocol: ftp",
            10,
            "ftp",
        ),
        ("default_pool: a", "default_pool: a\nlocal: 10.0.0", 10, ""),
        (
            "default_pool: a",
            "default_pool: a\nlimits:\n  head_bytes: 100",
            11,
            "not in 256..65536",
        ),
        (
            "default_pool: a",
            "default_pool: a\nlimits:\n  heads: 100",
            11,
            "heads",
        ),
        ("default_pool: a", "default_pool: [", 9, ""),
        (", weight: 5", ", weight: 101", 6, "not in 0..100"),
        (", weight: 5", ", wait: 5", 6, "wait"),
        ("10.77.1.2:80", "10.77.1.1:80", 6, "twice"),
        ("10.77.1.2:80", "10.77.1.2:0", 6, "port 0"),
        ("10.77.1.2:80", "10.77.1.2", 6, "socket address"),
        (
            "    members:\n      - { address: 10.77.1.1:80 }\n",
            "    members:\n",
            5,
            "none of pool",
        ),
        (
            "path_prefix: /a/, pool: a",
            "path_prefix: a/, pool: a",
            8,
            "begin with /",
        ),
        (
            "path_prefix: /a/, pool: a",
            "path_prefix: /a/, pool: b",
            8,
            "no pool \"b\"",
        ),
        ("path_prefix: /a/, pool: a", "pool: a", 8, "no condition"),
        (
            "path_prefix: /a/, pool: a",
            "sni: x, pool: a",
            8,
            "never match",
        ),
        (
            "path_prefix: /a/, pool: a",
            "host: 'x:80', pool: a",
            8,
            "no host name",
        ),
        (
            "path_prefix: /a/, pool: a",
            "header: { name: '', value: x }, pool: a",
            8,
            "empty name",
        ),
        ("rules:", "protocol: tls\nrules:", 9, "only sni"),
        (
            "rules:",
            "  - name: a\n    members: [{ address: 1.1.1.1:1 }]\nrules:",
            7,
            "second pool",
        ),
    ];
    for (from, to, line, part) in cases {
        assert!(GOOD.contains(from), "{from}");
        let mut text = GOOD.replacen(from, to, 1);
        if part == "none of pool" {
            text = text.replace("weight: 5", "weight: 0");
        }
        let message = parse(&text, "proxy.yaml").expect_err(to).to_string();
        let start = format!("proxy.yaml:{line}: ");
        assert!(message.starts_with(&start), "{to:?}: {message}");
        assert!(message.contains(part), "{to:?}: {message}");
        assert!(message.len() > start.len(), "{to:?}: {message}");
        assert!(!message.contains('\n'), "{to:?}: {message}");
        assert!(!message.contains("Options"), "{to:?}: {message}");
    }
}

/// What is put into GOOD's pool (or with a marker, its rule), and the whole message.
#[rustfmt::skip]
const POLICY_MISTAKES: &[(&str, &str)] = &[
    ("balance: fastest", "p.yaml:4: unknown variant `fastest`, expected one of path-hash, bounded-hash, lard, lard-replication, least-connections, weight, sticky"),
    ("slack_percent: 25", "p.yaml:4: slack_percent: balance is path-hash"),
    ("balance: lard\n    slack_percent: 25", "p.yaml:5: slack_percent: balance is lard"),
    ("balance: bounded-hash\n    slack_percent: 0", "p.yaml:5: slack_percent: 0 is not in 1..1000"),
    ("balance: bounded-hash\n    lard: { low: 3 }", "p.yaml:5: lard: balance is bounded-hash"),
    ("balance: lard\n    lard: { low: 65 }", "p.yaml:5: lard.high: 65 is not above lard.low, 65"),
    ("balance: lard\n    lard:\n      high: 20", "p.yaml:6: lard.high: 20 is not above lard.low, 25"),
    ("balance: lard\n    lard: { low: 0 }", "p.yaml:5: lard.low: 0 is not in 1..100000"),
    ("balance: lard\n    lard: { replica_s: 5 }", "p.yaml:5: lard.replica_s: balance is lard"),
    ("balance: lard-replication\n    lard: { replica_s: 0 }", "p.yaml:5: lard.replica_s: 0 is not in 1..3600"),
    ("balance: lard\n    lard: { targets: 0 }", "p.yaml:5: lard.targets: 0 is not in 1..10000000"),
    ("balance: lard\n    lard: { assign: first }", "p.yaml:5: unknown variant `first`, expected one of hash, least-loaded"),
    ("balance: lard\n    lard: { hi: 3 }", "p.yaml:5: unknown field `hi`, expected one of low, high, replica_s, targets, assign"),
    ("balance: sticky", "p.yaml:4: balance: sticky, but there is no key sticky (source or cookie)"),
    ("balance: sticky\n    sticky: { source: false }", "p.yaml:5: sticky: either source: true or cookie: NAME"),
    ("balance: sticky\n    sticky: { source: true, cookie: a }", "p.yaml:5: sticky: either source: true or cookie: NAME"),
    ("balance: sticky\n    sticky: { cookie: 'a b' }", "p.yaml:5: sticky.cookie: \"a b\" is no cookie's name"),
    ("balance: sticky\n    sticky: { cookie: '' }", "p.yaml:5: sticky.cookie: \"\" is no cookie's name"),
    ("sticky: { source: true }", "p.yaml:4: sticky: balance is path-hash"),
    ("max_connections: 0", "p.yaml:4: max_connections: 0 is not in 1..1000000"),
    ("full: wait", "p.yaml:4: full: without max_connections none is full"),
    ("queue: { length: 3 }", "p.yaml:4: queue: without max_connections none is full"),
    ("max_connections: 5\n    full: never", "p.yaml:5: unknown variant `never`, expected one of next, wait"),
    ("max_connections: 5\n    queue: { length: 100001 }", "p.yaml:5: queue.length: 100001 is not in 0..100000"),
    ("max_connections: 5\n    queue: { timeout_ms: 0 }", "p.yaml:5: queue.timeout_ms: 0 is not in 1..60000"),
    ("unavailable: 404", "p.yaml:4: unknown variant `404`, expected one of close, reset, 503"),
];

#[rustfmt::skip]
const OTHER_MISTAKES: &[(&str, &str, &str)] = &[
    (" }\n      - { address: 10.77.1.2:80, weight: 5 }", ", backup: true }", "p.yaml:5: members: all of pool \"a\" are backups"),
    ("weight: 5", "name: 'a.b'", "p.yaml:6: name: \"a.b\" is not of letters, digits, - and _"),
    ("10.77.1.1:80 }\n      - { address: 10.77.1.2:80, weight: 5 }", "10.77.1.1:80, name: n }\n      - { address: 10.77.1.2:80, name: n }", "p.yaml:6: name: a second member \"n\""),
    (", pool: a }", ", pool: a, slack_percent: 5 }", "p.yaml:8: slack_percent: the rule has no balance of its own"),
    (", pool: a }", ", pool: a, lard: { low: 5 } }", "p.yaml:8: lard: the rule has no balance of its own"),
    (", pool: a }", ", pool: a, balance: weight, sticky: { source: true } }", "p.yaml:8: sticky: balance is weight"),
    ("rules:", "nodes: { interval_ms: 9 }\nrules:", "p.yaml:7: nodes.interval_ms: 9 is not in 10..10000"),
    ("rules:", "nodes: { interval_ms: 600, stale_ms: 1000 }\nrules:", "p.yaml:7: nodes.stale_ms: 1000 is less than two intervals of 600"),
];

#[test]
fn mistakes_about_policies_give_their_line_and_reason() {
    let policies = POLICY_MISTAKES.iter().map(|(keys, message)| {
        let text = GOOD.replace("    members:", &format!("    {keys}\n    members:"));
        (*keys, text, *message)
    });
    let others = OTHER_MISTAKES.iter().map(|(from, to, message)| {
        assert!(GOOD.contains(from), "{from}");
        (*to, GOOD.replacen(from, to, 1), *message)
    });
    let mut wrong = String::new();
    for (what, text, expected) in policies.chain(others) {
        let found = match parse(&text, "p.yaml") {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != expected {
            wrong += &format!("{what:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let tls = |keys: &str| {
        let text = format!(
            "listen: 127.0.0.1:8001\nprotocol: tls\ndefault_pool: a\npools:\n  - name: a\n    {keys}\n    \
             members: [{{ address: 10.77.1.1:80 }}]\n"
        );
        parse(&text, "p.yaml").unwrap_err().to_string()
    };
    assert_eq!(
        tls("unavailable: 503"),
        "p.yaml:6: unavailable: 503 is no answer with protocol tls"
    );
    assert_eq!(
        tls("balance: sticky\n    sticky: { cookie: a }"),
        "p.yaml:7: sticky.cookie: can never be seen with protocol tls"
    );
}

#[test]
fn missing_keys_are_named() {
    for key in ["listen", "default_pool"] {
        let text: String = GOOD
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        let message = parse(&text, "proxy.yaml").unwrap_err().to_string();
        // The reader blames what it read last in the mapping.
        let line = message
            .strip_prefix("proxy.yaml:")
            .and_then(|rest| rest.strip_suffix(&format!(": missing field `{key}`")))
            .and_then(|line| line.parse::<usize>().ok());
        assert!(
            line.is_some_and(|line| (7..=8).contains(&line)),
            "{message}"
        );
    }
    let message = parse("", "proxy.yaml").unwrap_err().to_string();
    assert!(message.starts_with("proxy.yaml:"), "{message}");
}

fn run(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.yaml");
    std::fs::write(&file, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dts-proxy"))
        .arg("--config")
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (
        output.status.code(),
        text.replace(file.to_str().unwrap(), "FILE"),
    )
}

#[test]
fn exit_codes() {
    assert_eq!(run(GOOD, &["--check"]), (Some(0), String::new()));
    let bad = GOOD.replace("pool: a }", "pool: b }");
    let message = "FILE:8: pool: there is no pool \"b\"\n".to_owned();
    assert_eq!(run(&bad, &["--check"]), (Some(2), message.clone()));
    assert_eq!(run(&bad, &[]), (Some(2), message));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, text) = run(&GOOD.replace("127.0.0.1:8001", &address), &[]);
    assert_eq!(code, Some(2));
    assert!(
        text.starts_with(&format!("FILE:1: listen: {address}: ")),
        "{text}"
    );
}
