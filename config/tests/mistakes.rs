//! Every mistake gives one line with the file, the line to blame and the reason.

use dts_config::{ConfigError, load, parse};

const BASE: &str = include_str!("base.yaml");

/// (text of the base, what stands there instead, the message).
#[rustfmt::skip]
const MISTAKES: &[(&str, &str, &str)] = &[
    // Keys.
    ("mac:", "mca:", "t.yaml:5: cluster.mca: unknown key, did you mean mac?"),
    ("node: 1\n", "nodes: 1\n", "t.yaml:1: nodes: unknown key, did you mean node?"),
    ("log:\n", "extra: 3\nlog:\n", "t.yaml:53: extra: unknown key"),
    ("mtu: 1500", "MTU: 1500", "t.yaml:24: ports.wire.MTU: unknown key"),
    ("weight: 100", "wieght: 5", "t.yaml:9: cluster.members.0.wieght: unknown key, did you mean weight?"),
    ("first: 61000", "frist: 61000", "t.yaml:43: handover.splice_ports.frist: unknown key, did you mean first?"),
    ("  buckets: 4096\n", "  buckets: 4096\n  buckets: 64\n", "t.yaml:8: cluster.buckets: duplicate key (first on line 7)"),
    ("log:\n", "node: 1\nlog:\n", "t.yaml:53: node: duplicate key (first on line 1)"),
    ("node: 1\n", "\n", "t.yaml:2: node: missing"),
    ("  mac: \"02:00:5e:00:00:64\"\n", "", "t.yaml:2: cluster.mac: missing"),
    ("  cores: [0, 1]\n", "", "t.yaml:35: workers.cores: missing"),
    ("name: node2, ", "", "t.yaml:10: cluster.members.1.name: missing"),
    ("    device: \"net_af_packet1,iface=link0\"\n", "", "t.yaml:29: ports.link.device: missing"),
    // Types.
    ("node: 1\n", "node: one\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found \"one\""),
    ("node: 1\n", "node: 0\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found \"0\""),
    ("node: 1\n", "node: \"1\"\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found the string \"1\""),
    ("node: 1\n", "node: 01\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found \"01\""),
    ("node: 1\n", "node:\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found nothing"),
    ("node: 1\n", "node: [1]\n", "t.yaml:1: node: expected a whole number from 1 to 65535, found a list"),
    ("port: 80\n", "port: -80\n", "t.yaml:14: services.0.port: expected a whole number from 1 to 65535, found \"-80\""),
    ("port: 80\n", "port: 99999999999999999999\n", "t.yaml:14: services.0.port: expected a whole number from 1 to 65535, found \"99999999999999999999\""),
    ("hugepages: false", "hugepages: no", "t.yaml:39: memory.hugepages: expected true or false, found \"no\""),
    ("cores: [0, 1]", "cores: 0", "t.yaml:36: workers.cores: expected a list, found \"0\""),
    ("log:\n  level: info", "log: info", "t.yaml:53: log: expected a mapping, found \"info\""),
    ("level: info", "level: loud", "t.yaml:54: log.level: expected error, warn, info, debug or trace, found \"loud\""),
    ("name: demo", "name: the demo", "t.yaml:3: cluster.name: expected 1 to 64 letters, digits, dots, dashes or underscores, found \"the demo\""),
    // Cluster.
    ("policy: flow-hash", "policy: random", "t.yaml:6: cluster.policy: expected designated, flow-hash, source-hash, source-net-hash or scheduled, found \"random\""),
    ("policy: flow-hash", "policy: designated", "t.yaml:6: cluster.policy: designated, but cluster.designated is missing"),
    ("policy: flow-hash", "designated: 9", "t.yaml:6: cluster.designated: 9 is not the id of a member"),
    ("port: 25", "port: 25\n    policy: designated", "t.yaml:20: services.1.policy: designated, but neither the service nor the cluster has the key designated"),
    ("port: 25", "port: 25\n    policy: designated\n    designated: 7", "t.yaml:21: services.1.designated: 7 is not the id of a member"),
    ("port: 25", "port: 25\n    unavailable: close", "t.yaml:20: services.1.unavailable: expected rst or drop, found \"close\""),
    ("port: 25", "port: 25\n    repeats: 1", "t.yaml:20: services.1.repeats: without a proxy_port nothing is handed over before it is answered"),
    ("port: 80\n", "port: 80\n    repeats: 4\n", "t.yaml:15: services.0.repeats: expected a whole number from 0 to 3, found \"4\""),
    ("port: 25", "port: 25\n    designated: 1", "t.yaml:20: services.1.designated: the policy is flow-hash"),
    ("02:00:5e:00:00:64", "02:00:5e:00:64", "t.yaml:5: cluster.mac: expected an Ethernet address like 02:00:5e:00:00:64, found the string \"02:00:5e:00:64\""),
    ("02:00:5e:00:00:64", "03:00:5e:00:00:64", "t.yaml:5: cluster.mac: 03:00:5e:00:00:64 is a multicast address, and cluster.layer2 is unicast"),
    ("policy: flow-hash", "layer2: multicast", "t.yaml:5: cluster.mac: 02:00:5e:00:00:64 is a unicast address, and cluster.layer2 is multicast"),
    ("policy: flow-hash", "layer2: igmp", "t.yaml:5: cluster.mac: 02:00:5e:00:00:64 is not that of a group 239.255.X.Y, 01:00:5e:7f:X:Y"),
    ("policy: flow-hash", "layer2: flood", "t.yaml:6: cluster.layer2: expected unicast, multicast or igmp, found \"flood\""),
    ("02:00:5e:00:00:64", "00:00:5e:00:00:64", "t.yaml:5: cluster.mac: 00:00:5e:00:00:64 is not locally administered (02 in its first byte)"),
    ("0c0d0e0f", "0c0d0e", "t.yaml:4: cluster.key: expected 16 to 64 bytes in hex (32 to 128 hex digits)"),
    ("0c0d0e0f", "0c0d0e0g", "t.yaml:4: cluster.key: expected 16 to 64 bytes in hex (32 to 128 hex digits)"),
    ("  mac:", "  key_file: /k\n  mac:", "t.yaml:5: cluster.key_file: not together with cluster.key"),
    ("  key: \"000102030405060708090a0b0c0d0e0f\"\n", "", "t.yaml:2: cluster.key: missing (or cluster.key_file)"),
    ("key: \"000102030405060708090a0b0c0d0e0f\"", "key_file: /nonexistent/key", "t.yaml:4: cluster.key_file: cannot read /nonexistent/key: No such file or directory (os error 2)"),
    ("  mac:", "  other_key: \"000102030405060708090a0b0c0d0e0f\"\n  mac:", "t.yaml:5: cluster.other_key: the same as cluster.key"),
    ("  mac:", "  other_key: \"00\"\n  mac:", "t.yaml:5: cluster.other_key: expected 16 to 64 bytes in hex (32 to 128 hex digits)"),
    ("  mac:", "  bucket_key: \"000102030405060708090a0b0c0d0e0f\"\n  bucket_key_file: /k\n  mac:", "t.yaml:6: cluster.bucket_key_file: not together with cluster.bucket_key"),
    ("buckets: 4096", "buckets: 100", "t.yaml:7: cluster.buckets: 100 is not a power of two"),
    ("buckets: 4096", "buckets: 8", "t.yaml:7: cluster.buckets: expected a whole number from 16 to 65536, found \"8\""),
    ("node: 1\n", "node: 3\n", "t.yaml:1: node: 3 is not the id of a member"),
    ("id: 2", "id: 1", "t.yaml:10: cluster.members.1.id: 1 is node1's id already"),
    ("name: node2", "name: node1", "t.yaml:10: cluster.members.1.name: node 1 has this name already"),
    ("link: 10.77.1.2", "link: 10.77.1.1", "t.yaml:10: cluster.members.1.link: 10.77.1.1 is node1's address already"),
    ("link: 10.77.1.2", "link: 10.77.1", "t.yaml:10: cluster.members.1.link: expected an IP address, found \"10.77.1\""),
    ("link: 10.77.1.2", "link: fd00::2", "t.yaml:10: cluster.members.1.link: fd00::2 and node1's 10.77.1.1 are not of one family"),
    ("link: 10.77.1.2", "link: fe80::2", "t.yaml:10: cluster.members.1.link: a link-local address has no meaning without an interface; use a global or a unique local one (fd00::/8)"),
    ("link: 10.77.1.2", "link: \"::ffff:10.77.1.2\"", "t.yaml:10: cluster.members.1.link: an IPv4 address is written as such, 10.77.1.2"),
    ("link: 10.77.1.2", "link: ff02::1", "t.yaml:10: cluster.members.1.link: expected a unicast address, found \"ff02::1\""),
    ("weight: 100 }\n    - { id: 2, name: node2, link: 10.77.1.2 }", "weight: 0 }", "t.yaml:8: cluster.members: every weight is 0, so nobody would own a connection"),
    ("weight: 100", "weight: 101", "t.yaml:9: cluster.members.0.weight: expected a whole number from 0 to 100, found \"101\""),
    // Services.
    ("vip: 10.77.0.101\n    port: 25", "vip: 10.77.0.100\n    port: 80", "t.yaml:19: services.1.port: 10.77.0.100:80 is service web's already"),
    ("name: mail", "name: web", "t.yaml:17: services.1.name: \"web\" is the name of another service"),
    ("vip: 10.77.0.101\n    port: 25", "vip: 10.77.0.100\n    port: 25\n    application_port: 8080", "t.yaml:20: services.1.application_port: service web has this application port on 10.77.0.100 already"),
    ("vip: 10.77.0.101\n    port: 25", "vip: 10.77.0.100\n    port: 25\n    proxy_port: 8001", "t.yaml:20: services.1.proxy_port: service web has this proxy port of 10.77.0.100 already"),
    ("proxy_port: 8001", "proxy_port: 80", "t.yaml:15: services.0.proxy_port: 80 is the port of service web"),
    ("proxy_port: 8001", "proxy_port: 25", "t.yaml:15: services.0.proxy_port: 25 is the port of service mail"),
    ("proxy_port: 8001", "proxy_port: 8080", "t.yaml:15: services.0.proxy_port: 8080 is the application port of service web"),
    ("vip: 10.77.0.100", "vip: 10.77.0.300", "t.yaml:13: services.0.vip: expected an IP address, found \"10.77.0.300\""),
    ("vip: 10.77.0.100", "vip: 224.0.0.1", "t.yaml:13: services.0.vip: expected a unicast address, found \"224.0.0.1\""),
    ("vip: 10.77.0.100", "vip: 127.0.0.1", "t.yaml:13: services.0.vip: a VIP cannot be a loopback address"),
    ("vip: 10.77.0.100", "vip: \"::1\"", "t.yaml:13: services.0.vip: a VIP cannot be a loopback address"),
    ("vip: 10.77.0.100", "vip: fe80::100", "t.yaml:13: services.0.vip: a link-local address has no meaning without an interface; use a global or a unique local one (fd00::/8)"),
    ("vip: 10.77.0.100", "vip: \"::ffff:10.77.0.100\"", "t.yaml:13: services.0.vip: an IPv4 address is written as such, 10.77.0.100"),
    ("vip: 10.77.0.100", "vip: fd00::1::1", "t.yaml:13: services.0.vip: expected an IP address, found \"fd00::1::1\""),
    ("vip: 10.77.0.100\n    port: 80\n    proxy_port: 8001\n    application_port: 8080\n  - name: mail\n    vip: 10.77.0.101\n    port: 25",
     "vip: fd00::100\n    port: 80\n  - name: mail\n    vip: fd00:0::100\n    port: 80", "t.yaml:17: services.1.port: [fd00::100]:80 is service web's already"),
    ("vip: 10.77.0.100\n    port: 80\n    proxy_port: 8001\n    application_port: 8080\n  - name: mail\n    vip: 10.77.0.101\n    port: 25\nports:\n  wire:\n    device: \"net_af_packet0,iface=wire0\"\n    queues: 1\n    mtu: 1500",
     "vip: fd00::100\n    port: 80\nports:\n  wire:\n    device: \"net_af_packet0,iface=wire0\"\n    mtu: 1279", "t.yaml:18: ports.wire.mtu: 1279 is less than 1280, which IPv6 needs"),
    ("mtu: 1500\n    host:\n      device: \"net_tap0,iface=dtsw\"\n      interface: dtsw\n      addresses: [10.77.0.1/24]", "mtu: 1000\n    host:\n      device: net_tap0\n      addresses: [\"fd00::1/64\"]", "t.yaml:24: ports.wire.mtu: 1000 is less than 1280, which IPv6 needs"),
    ("vip: 10.77.0.100", "vip: 10.77.1.2", "t.yaml:13: services.0.vip: 10.77.1.2 is the link address of node 2"),
    ("vip: 10.77.0.100", "vip: 10.77.0.1", "t.yaml:13: services.0.vip: 10.77.0.1 is in ports.wire.host.addresses"),
    // Ports.
    ("\"net_af_packet0,iface=wire0\"", "\"\"", "t.yaml:22: ports.wire.device: expected a DPDK vdev string or PCI address, found the string \"\""),
    ("net_af_packet0,", "net af_packet0,", "t.yaml:22: ports.wire.device: a device has a name, and no white space"),
    ("net_tap1,", "net_tap0,", "t.yaml:32: ports.link.host.device: net_tap0 is the device of ports.wire.host.device already"),
    ("\"net_af_packet1,iface=link0\"", "net_af_packet0", "t.yaml:30: ports.link.device: net_af_packet0 is the device of ports.wire.device already"),
    ("interface: dtsl", "interface: dtsw", "t.yaml:33: ports.link.host.interface: the same as ports.wire.host.interface"),
    ("interface: dtsw", "interface: sixteen-bytes-xx", "t.yaml:27: ports.wire.host.interface: expected an interface name of 1 to 15 bytes without slash, colon or white space"),
    ("10.77.0.1/24", "10.77.0.1", "t.yaml:28: ports.wire.host.addresses.0: expected an address with prefix length like 10.77.0.1/24, found \"10.77.0.1\""),
    ("10.77.0.1/24", "10.77.0.1/33", "t.yaml:28: ports.wire.host.addresses.0: expected an address with prefix length like 10.77.0.1/24, found \"10.77.0.1/33\""),
    ("10.77.1.1/24", "10.77.1.7/24", "t.yaml:34: ports.link.host.addresses: 10.77.1.1, the link address of node 1, is not there"),
    ("queues: 1", "queues: 0", "t.yaml:23: ports.wire.queues: expected a whole number from 1 to 1024, found \"0\""),
    ("mtu: 1500", "mtu: 64", "t.yaml:24: ports.wire.mtu: expected a whole number from 576 to 9216, found \"64\""),
    ("mtu: 1500", "mtu: 9217", "t.yaml:24: ports.wire.mtu: expected a whole number from 576 to 9216, found \"9217\""),
    ("mtu: 1500", "vlan: 4095", "t.yaml:24: ports.wire.vlan: expected a whole number from 1 to 4094, found \"4095\""),
    ("mtu: 1500", "vlan: 0", "t.yaml:24: ports.wire.vlan: expected a whole number from 1 to 4094, found \"0\""),
    ("mtu: 1500", "offloads: some", "t.yaml:24: ports.wire.offloads: expected auto or none, found \"some\""),
    ("      interface: dtsw\n", "      offloads: lro\n      interface: dtsw\n", "t.yaml:27: ports.wire.host.offloads: expected tso, checksum or none, found \"lro\""),
    // Workers, sizes, times.
    ("cores: [0, 1]", "cores: []", "t.yaml:36: workers.cores: no cores"),
    ("cores: [0, 1]", "cores: [0,\n    0]", "t.yaml:37: workers.cores.1: core 0 is listed twice"),
    ("idle_sleep_us: 100", "idle_sleep_us: 49", "t.yaml:37: workers.idle_sleep_us: expected a whole number from 50 to 10000, found \"49\""),
    ("idle_sleep_us: 100", "idle: sleep", "t.yaml:37: workers.idle: expected spin or backoff, found \"sleep\""),
    ("hold_flow_kib: 128", "hold_flow_kib: 128\n  hold_node_kib: 200", "t.yaml:41: memory.hold_node_kib: 200 over 2 workers leaves 100 for each, and one flow may need 128"),
    ("hold_flow_kib: 128", "hold_flow_kib: 5000", "t.yaml:40: memory.hold_flow_kib: 5000 for one flow is more than memory.hold_kib, 4096, for all"),
    ("hold_flow_kib: 128", "megabytes: 8", "t.yaml:40: memory.megabytes: expected a whole number from 16 to 1048576, found \"8\""),
    ("deadline_ms: 150", "deadline_ms: 9", "t.yaml:42: handover.deadline_ms: expected a whole number from 10 to 10000, found \"9\""),
    ("deadline_ms: 150", "deadline_ms: 3000", "t.yaml:41: handover.unknown_deadline_ms: 2000 is less than handover.deadline_ms, 3000"),
    ("deadline_ms: 150", "first_window: 65535", "t.yaml:42: handover.first_window: expected a whole number from 4096 to 60000, found \"65535\""),
    ("deadline_ms: 150", "replay: slow", "t.yaml:42: handover.replay: expected fast-open or handshake, found \"slow\""),
    ("first: 61000", "first: 65000", "t.yaml:43: handover.splice_ports: first 65000 is above last 64999"),
    ("first: 61000", "first: 8080", "t.yaml:43: handover.splice_ports: 8080 to 64999 contains 8080, the application port of service web"),
    ("first: 61000", "first: 8001", "t.yaml:43: handover.splice_ports: 8001 to 64999 contains 8001, the proxy port of service web"),
    ("first: 61000", "first: 20", "t.yaml:43: handover.splice_ports: 20 to 64999 contains 80, the port of service web"),
    ("first: 61000", "first: 64999", "t.yaml:43: handover.splice_ports: 1 ports are too few for 2 workers"),
    ("answer_ms: 20", "answer_ms: 51", "t.yaml:45: peers.answer_ms: 51 is more than half of peers.probe_ms, 100"),
    ("answer_ms: 20", "probe_ms: 9", "t.yaml:45: peers.probe_ms: expected a whole number from 10 to 60000, found \"9\""),
    ("answer_ms: 20", "dead_after_ms: 1000", "t.yaml:45: peers.dead_after_ms: unknown key"),
    ("idle_s: 3600", "idle_s: 604801", "t.yaml:47: timeouts.idle_s: expected a whole number from 1 to 604800, found \"604801\""),
    ("timeouts:\n", "orphans: { resets_per_s: 0 }\ntimeouts:\n", "t.yaml:46: orphans.resets_per_s: expected a whole number from 1 to 1000000, found \"0\""),
    ("timeouts:\n", "reports: { port: 7946 }\ntimeouts:\n", "t.yaml:46: reports.port: the same as peers.port"),
    ("timeouts:\n", "reports: { interval_ms: 9 }\ntimeouts:\n", "t.yaml:46: reports.interval_ms: expected a whole number from 10 to 10000, found \"9\""),
    // Health.
    ("port: 25", "port: 25\n    health: tcp", "t.yaml:20: services.1.health: expected a mapping, found \"tcp\""),
    ("port: 25", "port: 25\n    health: { check: udp }", "t.yaml:20: services.1.health.check: expected tcp, http or command, found \"udp\""),
    ("port: 25", "port: 25\n    health: { path: /x }", "t.yaml:20: services.1.health.path: the check is tcp"),
    ("port: 25", "port: 25\n    health:\n      check: command\n      status: [200]", "t.yaml:22: services.1.health.status: the check is command"),
    ("port: 25", "port: 25\n    health: { check: http, path: x }", "t.yaml:20: services.1.health.path: expected a path that begins with / and has no white space"),
    ("port: 25", "port: 25\n    health: { check: http, path: '/x y' }", "t.yaml:20: services.1.health.path: expected a path that begins with / and has no white space"),
    ("port: 25", "port: 25\n    health: { check: http, host: 'a/b' }", "t.yaml:20: services.1.health.host: expected a host name, or one with a port"),
    ("port: 25", "port: 25\n    health: { check: http, status: [] }", "t.yaml:20: services.1.health.status: expected at least one status"),
    ("port: 25", "port: 25\n    health: { check: http, status: [600] }", "t.yaml:20: services.1.health.status.0: expected a whole number from 100 to 599, found \"600\""),
    ("port: 25", "port: 25\n    health: { check: command }", "t.yaml:20: services.1.health.check: command, but health.command is missing"),
    ("port: 25", "port: 25\n    health: { check: command, command: [] }", "t.yaml:20: services.1.health.command: expected a program's path and its arguments, 64 words at most"),
    ("port: 25", "port: 25\n    health: { check: command, command: [check] }", "t.yaml:20: services.1.health.command: \"check\" is no absolute path"),
    ("port: 25", "port: 25\n    health: { interval_ms: 49 }", "t.yaml:20: services.1.health.interval_ms: expected a whole number from 50 to 600000, found \"49\""),
    ("port: 25", "port: 25\n    health: { interval_ms: 100, timeout_ms: 101 }", "t.yaml:20: services.1.health.timeout_ms: 101 is more than interval_ms, 100"),
    ("port: 25", "port: 25\n    health: { rise: 0 }", "t.yaml:20: services.1.health.rise: expected a whole number from 1 to 100, found \"0\""),
    ("port: 25", "port: 25\n    health: { fall: 101 }", "t.yaml:20: services.1.health.fall: expected a whole number from 1 to 100, found \"101\""),
    ("port: 25", "port: 25\n    health: { fail: 1 }", "t.yaml:20: services.1.health.fail: unknown key, did you mean fall?"),
    // Control.
    ("127.0.0.1:9464", "localhost:9464", "t.yaml:52: control.metrics: expected an address and port like 127.0.0.1:9464, found \"localhost:9464\""),
    ("127.0.0.1:9464", "127.0.0.1:0", "t.yaml:52: control.metrics: expected an address and port like 127.0.0.1:9464, found \"127.0.0.1:0\""),
    ("1000]", "4294967295]", "t.yaml:51: control.rpc_allow.uids.1: expected a whole number from 0 to 4294967294, found \"4294967295\""),
    ("/run/dts/rpc.sock", "/run/dts/admin.sock", "t.yaml:48: control.admin_socket: the same as control.rpc_socket"),
    // The document.
    ("log:\n", "---\nlog:\n", "t.yaml:53: a second document; only one is allowed"),
    ("[0, 1]", "[0, 1", "t.yaml:37: not YAML: illegal placement of ':' indicator"),
    ("[0, 1]", "[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]", "t.yaml:36: nested too deeply"),
    ("node: 1\n", "node: &n 1\n", "t.yaml:1: anchors and aliases are not supported"),
    ("hugepages: false", "hugepages: &a false\n  megabytes: *a", "t.yaml:39: anchors and aliases are not supported"),
    ("node: 1\n", "node: *n\n", "t.yaml:1: not YAML: while parsing node, found unknown anchor"),
    ("node: 1\n", "node: !!int 1\n", "t.yaml:1: tags are not supported"),
    ("node: 1\n", "? [node]\n: 1\n", "t.yaml:1: a key must be a plain word"),
    ("node: 1\n", "\"no\\nde\": 1\n", "t.yaml:1: no\\nde: unknown key, did you mean node?"),
];

#[test]
fn each_mistake_gives_its_line_and_reason() {
    parse(BASE, "t.yaml").expect("the base is valid");
    let mut wrong = String::new();
    for (from, to, expected) in MISTAKES {
        let mutated = BASE.replacen(from, to, 1);
        assert_ne!(mutated, BASE, "{from:?} is not in the base");
        let found = match parse(&mutated, "t.yaml") {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != *expected {
            wrong += &format!("{from:?} -> {to:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn whole_files() {
    let message = |text: &str| parse(text, "t.yaml").unwrap_err().to_string();
    assert_eq!(message(""), "t.yaml: the file is empty");
    assert_eq!(message("# nothing\n\n"), "t.yaml: the file is empty");
    assert_eq!(message("--- \n...\n"), "t.yaml: the file is empty");
    assert_eq!(
        message("\n- 1\n"),
        "t.yaml:2: expected a mapping, found a list"
    );
    assert_eq!(
        message("hello"),
        "t.yaml:1: expected a mapping, found \"hello\""
    );
}

#[test]
fn the_longest_socket_path_is_accepted() {
    let path = format!("/{}", "x".repeat(106));
    let at = |path: &str| parse(&BASE.replace("/run/dts/rpc.sock", path), "t.yaml");
    let config = at(&path).expect("107 bytes fit");
    assert_eq!(config.control.rpc_socket.to_str(), Some(path.as_str()));
    let error = at(&format!("{path}x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "t.yaml:49: control.rpc_socket: a socket's path has at most 107 bytes, this one has 108"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &std::path::Path| -> String {
        let error: ConfigError = load(path).unwrap_err();
        error
            .to_string()
            .replace(folder.path().to_str().unwrap(), "DIR")
    };
    let missing = folder.path().join("missing.yaml");
    assert_eq!(
        message(&missing),
        "DIR/missing.yaml: cannot read: No such file or directory (os error 2)"
    );
    assert_eq!(
        message(folder.path()),
        "DIR: cannot read: Is a directory (os error 21)"
    );
    let latin = folder.path().join("latin.yaml");
    std::fs::write(&latin, b"node: 1\n# caf\xe9\n").unwrap();
    assert_eq!(message(&latin), "DIR/latin.yaml:2: not UTF-8");
    let large = folder.path().join("large.yaml");
    std::fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
    assert_eq!(message(&large), "DIR/large.yaml: more than 1048576 bytes");
}

#[test]
fn key_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dtsd.yaml");
    let key = "key: \"000102030405060708090a0b0c0d0e0f\"";
    std::fs::write(&file, BASE.replace(key, "key_file: cluster.key")).unwrap();

    // Beside the file that names it, white space around it ignored.
    std::fs::write(
        folder.path().join("cluster.key"),
        format!("{}\n", "aB".repeat(64)),
    )
    .unwrap();
    let config = load(&file).unwrap();
    assert_eq!(config.cluster.key.as_bytes(), [0xab; 64]);

    std::fs::write(folder.path().join("cluster.key"), "s3cret").unwrap();
    let error = load(&file).unwrap_err();
    assert_eq!(error.line(), Some(4));
    assert!(
        error
            .reason()
            .ends_with("cluster.key: expected 16 to 64 bytes in hex (32 to 128 hex digits)")
    );
}

#[test]
fn no_message_shows_the_key() {
    let mutations = [
        ("key: \"000102030405060708090a0b0c0d0e0f\"", "key: 5ec2e7"),
        ("key: \"000102030405060708090a0b0c0d0e0f\"", "key: [5ec2e7]"),
        (
            "key: \"000102030405060708090a0b0c0d0e0f\"",
            "key: {5ec2e7: 1}",
        ),
        ("key: \"000102030405060708090a0b0c0d0e0f\"", "key: \"5ec2e7"),
        (
            "key: \"000102030405060708090a0b0c0d0e0f\"",
            "key: 5ec2e7: 1",
        ),
    ];
    for (from, to) in mutations {
        let error = parse(&BASE.replace(from, to), "t.yaml").unwrap_err();
        assert!(!error.to_string().contains("5ec2e7"), "{error}");
    }
    let config = parse(BASE, "t.yaml").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("ClusterKey(..)"), "{shown}");
    assert!(
        !shown.contains("0c0d0e0f") && !shown.contains("12, 13, 14, 15"),
        "{shown}"
    );
}
