//! What valid files mean, and where their keys stand.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use dts_config::{
    Check, Config, Health, Idle, LogLevel, MacAddr, NodeId, Policy, PortRange, Replay, Unavailable,
    load, parse,
};

const BASE: &str = include_str!("base.yaml");

/// Only what is required.
const LEAST: &str = "
node: 7
cluster:
  name: c
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:00:00:00:01
  members: [{ id: 7, name: n, link: 10.0.0.7 }]
services: [{ name: s, vip: 10.0.1.1, port: 443 }]
ports:
  wire: { device: 0000:01:00.0, host: { device: net_tap0 } }
  link: { device: 0000:01:00.1, host: { device: net_tap1 } }
workers: { cores: [2, 3, 4] }
";

fn example() -> Config {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dtsd.yaml"))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_example_loads() {
    let config = example();
    assert_eq!(config.node, NodeId(1));
    assert_eq!(config.cluster.key.as_bytes(), (0..16).collect::<Vec<u8>>());
    assert_eq!(config.cluster.mac, MacAddr([2, 0, 0x5e, 0, 0, 0x64]));
    assert_eq!(config.this_member().link, ip("10.77.1.1"));
    assert_eq!(config.cluster.members[1].weight, 100);
    let [web, mail] = &config.services[..] else {
        panic!("two services");
    };
    assert_eq!((web.proxy_port, web.application_port), (Some(8001), 80));
    let health = web.health.as_ref().unwrap();
    let check = Check::Http {
        path: "/health".into(),
        host: Some("www.example".into()),
        status: vec![200, 204],
    };
    assert_eq!(health.check, check);
    assert_eq!((&mail.health, health.rise, health.fall), (&None, 2, 3));
    assert_eq!((web.policy, web.designated), (Policy::FlowHash, None));
    assert_eq!((mail.proxy_port, mail.application_port), (None, 25));
    assert_eq!(
        (mail.policy, mail.designated),
        (Policy::Designated, Some(NodeId(2)))
    );
    assert_eq!(
        config.ports.wire.host.addresses[0].to_string(),
        "10.77.0.1/24"
    );
    assert_eq!(config.ports.link.host.interface.as_deref(), Some("dtsl"));
}

/// The example says of its values that they are the defaults.
#[test]
fn the_example_shows_the_defaults() {
    let (shown, least) = (example(), parse(LEAST, "t").unwrap());
    assert_eq!(shown.memory, least.memory);
    assert_eq!(shown.handover, least.handover);
    assert_eq!(shown.peers, least.peers);
    assert_eq!(shown.reports, least.reports);
    assert_eq!(shown.timeouts, least.timeouts);
    assert_eq!(shown.orphans, least.orphans);
    assert_eq!(shown.control, least.control);
    assert_eq!(shown.log, least.log);
    assert_eq!(shown.workers.idle, least.workers.idle);
    assert_eq!(shown.workers.idle_sleep, least.workers.idle_sleep);
    assert_eq!(shown.cluster.policy, least.cluster.policy);
    assert_eq!(shown.cluster.buckets, least.cluster.buckets);
    assert_eq!(shown.cluster.layer2, least.cluster.layer2);
    assert_eq!(shown.cluster.announce, least.cluster.announce);
    assert_eq!(
        shown.cluster.accept_paper_form,
        least.cluster.accept_paper_form
    );
    assert_eq!(shown.ports.wire.mtu, least.ports.wire.mtu);
}

#[test]
fn defaults() {
    let config = parse(LEAST, "t").unwrap();
    assert_eq!(config.ports.wire.device, "0000:01:00.0");
    assert_eq!(config.ports.wire.queues, 3, "one per worker");
    assert_eq!(config.ports.wire.host.interface, None);
    assert_eq!(config.services[0].application_port, 443);
    assert_eq!(config.workers.idle, Idle::Backoff);
    assert_eq!(config.workers.idle_sleep, Duration::from_micros(50));
    assert!(config.memory.hugepages);
    assert_eq!(config.handover.deadline, Duration::from_millis(150));
    assert_eq!(config.handover.unknown_deadline, Duration::from_secs(2));
    assert_eq!(config.handover.replay, Replay::FastOpen);
    let splice = PortRange {
        first: 61_000,
        last: 64_999,
    };
    assert_eq!(config.handover.splice_ports, splice);
    assert_eq!(config.timeouts.idle, Duration::from_secs(3_600));
    assert_eq!(config.control.rpc_allow.uids, [0]);
    assert_eq!(config.control.metrics.to_string(), "127.0.0.1:9464");
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn the_host_has_an_address_of_its_own_where_the_clusters_is_a_groups() {
    let parsed = |mac: &str, layer2: &str| {
        let text = BASE.replace("02:00:5e:00:00:64", mac);
        parse(&text.replace("policy: flow-hash", layer2), "t").unwrap()
    };
    for (mac, layer2, host, group) in [
        ("02:00:5e:00:00:64", "", "02:00:5e:00:00:64", None),
        (
            "03:bf:0a:00:00:01",
            "layer2: multicast",
            "02:bf:0a:00:00:01",
            None,
        ),
        (
            "01:00:5e:7f:07:09",
            "layer2: igmp",
            "02:00:5e:7f:07:09",
            Some([239, 255, 7, 9]),
        ),
    ] {
        let cluster = parsed(mac, layer2).cluster;
        assert_eq!(cluster.host_mac().to_string(), host);
        assert_eq!(cluster.group(), group);
    }
}

#[test]
fn health_checks() {
    let of = |keys: &str| {
        let text = BASE.replace("port: 25", &format!("port: 25\n    health: {{ {keys} }}"));
        parse(&text, "t").unwrap().services[1]
            .health
            .clone()
            .unwrap()
    };
    let millis = Duration::from_millis;
    let defaults = Health {
        check: Check::Tcp,
        interval: millis(1_000),
        timeout: millis(500),
        rise: 2,
        fall: 3,
    };
    assert_eq!(of(""), defaults);
    let http = Check::Http {
        path: "/".into(),
        host: None,
        status: vec![200],
    };
    assert_eq!(of("check: http").check, http);
    let command = ["/bin/check", "-x", "a b"].map(String::from).to_vec();
    let found = of("check: command, command: [/bin/check, -x, 'a b'], interval_ms: 500");
    assert_eq!(found.check, Check::Command(command));
    assert_eq!((found.interval, found.timeout), (millis(500), millis(500)));
}

#[test]
fn an_unavailable_service_and_a_scheduled_one() {
    let config = parse(BASE, "t").unwrap();
    let all = |u| config.services.iter().all(|s| s.unavailable == u);
    assert!(all(Unavailable::Rst), "the default");
    let text = BASE.replace(
        "port: 25",
        "port: 25\n    unavailable: drop\n    policy: scheduled",
    );
    let config = parse(&text, "t").unwrap();
    assert_eq!(config.services[0].unavailable, Unavailable::Rst);
    let mail = &config.services[1];
    assert_eq!(
        (mail.unavailable, mail.policy),
        (Unavailable::Drop, Policy::Scheduled)
    );
}

#[test]
fn a_designated_cluster_designates_its_services() {
    let text = BASE.replace("policy: flow-hash", "policy: designated\n  designated: 2");
    let config = parse(&text, "t").unwrap();
    for service in &config.services {
        assert_eq!(
            (service.policy, service.designated),
            (Policy::Designated, Some(NodeId(2)))
        );
    }
}

/// Services of both families side by side, and a link of either.
#[test]
fn ipv6() {
    let text = BASE
        .replace("vip: 10.77.0.101", "vip: 2001:db8::100")
        .replace("link: 10.77.1.1", "link: fd00:77:1::1")
        .replace("link: 10.77.1.2", "link: \"fd00:77:1::2\"")
        .replace("[10.77.0.1/24]", "[10.77.0.1/24, \"2001:db8::1/64\"]")
        .replace("[10.77.1.1/24]", "[\"fd00:77:1::1/64\"]")
        .replace("mtu: 1500", "mtu: 1280");
    let config = parse(&text, "t").unwrap();
    assert_eq!(config.services[0].vip, ip("10.77.0.100"));
    assert_eq!(config.services[1].vip, ip("2001:db8::100"));
    assert_eq!(config.this_member().link, ip("fd00:77:1::1"));
    assert_eq!(config.ports.wire.host.addresses[1].length, 64);
    // The same port at two VIPs is two services, and one proxy may serve both.
    let both = BASE.replace(
        "    vip: 10.77.0.101\n    port: 25",
        "    vip: 2001:db8::100\n    port: 80\n    application_port: 8080\n    proxy_port: 8001",
    );
    assert_eq!(parse(&both, "t").unwrap().services.len(), 2);
}

#[test]
fn origins() {
    let config = parse(BASE, "dtsd.yaml").unwrap();
    let lines = [
        ("node", Some(1)),
        ("cluster.members.1", Some(10)),
        ("cluster.members.1.link", Some(10)),
        ("services.1.vip", Some(18)),
        ("ports.wire.device", Some(22)),
        ("ports.link.host.device", Some(32)),
        ("workers.cores.1", Some(36)),
        ("memory.megabytes", None),
        ("nonsense", None),
    ];
    for (path, line) in lines {
        assert_eq!(config.origin(path), line, "{path}");
    }
    let message = |path: &str| config.error_at(path, "missing device").to_string();
    assert_eq!(
        message("ports.wire.device"),
        "dtsd.yaml:22: ports.wire.device: missing device"
    );
    // Left out: the mapping around it.
    assert_eq!(
        message("memory.megabytes"),
        "dtsd.yaml:38: memory.megabytes: missing device"
    );
}

#[test]
fn equal_is_what_says_the_same() {
    let config = parse(BASE, "a").unwrap();
    assert_eq!(config, parse(&format!("# moved\n\n{BASE}"), "b").unwrap());
    assert_ne!(
        config,
        parse(&BASE.replace("idle_s: 3600", "idle_s: 3601"), "a").unwrap()
    );
}

#[test]
fn the_nodes_hold_cap_is_shared_out_among_the_workers() {
    let mut config = parse(LEAST, "t").unwrap();
    assert_eq!(config.hold_kib_per_worker(), 4_096, "a worker's own cap");
    config.memory.hold_node_kib = 6_000;
    assert_eq!(config.hold_kib_per_worker(), 2_000, "a third of the node's");
}

#[test]
fn a_rotation_has_a_second_key_and_keeps_the_buckets() {
    let (old, new) = ("00112233445566778899aabbccddeeff", "f0".repeat(16));
    let text = LEAST.replace(
        "  mac:",
        &format!("  other_key: {new}\n  bucket_key: {old}\n  mac:"),
    );
    let config = parse(&text, "t").unwrap();
    assert_eq!(config.cluster.other_key, Some(new.parse().unwrap()));
    assert_eq!(
        config.cluster.bucket_key.as_ref(),
        Some(&config.cluster.key)
    );
    assert_eq!(parse(LEAST, "t").unwrap().cluster.other_key, None);
}
