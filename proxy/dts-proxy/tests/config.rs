//! The configuration: what is accepted, and the one line that a mistake gives.

use dts_proxy::config::{Balance, Protocol, parse};
use std::process::Command;

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
    assert_eq!((config.pools.len(), config.rules.len()), (2, 3));
    assert_eq!(config.pools[1].balance, Balance::Weight);
    assert_eq!(config.local, Some("10.77.1.1".parse().unwrap()));

    let config = parse(GOOD, "x").unwrap();
    assert_eq!(config.protocol, Protocol::Http);
    assert_eq!(config.rpc_socket.to_str(), Some("/run/dts/rpc.sock"));
    assert_eq!(config.limits.head_bytes, 16384);
    assert_eq!(config.limits.head_timeout.as_millis(), 10_000);
    assert_eq!(config.limits.connections, 4096);
    assert_eq!((config.retries, config.listen_line), (2, 1));
    assert_eq!(config.pools[0].balance, Balance::PathHash);
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
