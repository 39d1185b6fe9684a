//! Labs with other settings: nodes that disagree about ownership, no Fast Open,
//! the paper's bare form, and a tagged link.

use dts_tests::capture::Capture;
use dts_tests::lab::{Lab, Setup};
use dts_tests::suite::{self, Group};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const CLIENT: &str = env!("CARGO_BIN_EXE_labclient");
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

fn main() -> ExitCode {
    let setup = |prefix, overlay| Setup {
        prefix,
        nodes: 3,
        overlay,
        client: CLIENT,
        scratch: SCRATCH,
    };
    // Nodes 1 and 3 say node 1; node 2 says itself: every SYN has two owners.
    let two_owners = "POLICY=designated\nDESIGNATED=1\nNODE2_DESIGNATED=2\n";
    suite::main(vec![
        Group {
            setup: setup("dtsv", two_owners),
            suffix: "",
            cases: vec![("two_owners_reset_nobody", two_owners_reset_nobody)],
            once: vec![],
        },
        Group {
            setup: setup("dtsv", "FASTOPEN=0\n"),
            suffix: "",
            cases: vec![
                (
                    "without_fast_open_by_handshake",
                    without_fast_open_by_handshake,
                ),
                (
                    "without_fast_open_large_and_half_closed",
                    without_fast_open_large_and_half_closed,
                ),
            ],
            once: vec![],
        },
        Group {
            setup: setup("dtsv", "ACCEPT_PAPER=1\n"),
            suffix: "",
            cases: vec![("with_fast_open_by_fast_open", with_fast_open_by_fast_open)],
            once: vec![(
                "a_source_of_the_paper_form_is_served",
                a_source_of_the_paper_form_is_served,
            )],
        },
        Group {
            setup: setup("dtsv", "LAYER2=multicast\nMAC=03:bf:0a:4d:00:64\n"),
            suffix: "",
            cases: vec![("a_multicast_address_serves", a_multicast_address_serves)],
            once: vec![],
        },
        Group {
            setup: setup("dtsv", "LAYER2=igmp\nMAC=01:00:5e:7f:00:64\n"),
            suffix: "",
            cases: vec![],
            once: vec![(
                "a_group_that_nodes_join_serves",
                a_group_that_nodes_join_serves,
            )],
        },
        Group {
            setup: setup("dtsv", "LINK_VLAN=77\n"),
            suffix: "",
            cases: vec![(
                "a_tagged_link_carries_handovers",
                a_tagged_link_carries_handovers,
            )],
            once: vec![(
                "what_takes_frames_elsewhere_is_noticed",
                what_takes_frames_elsewhere_is_noticed,
            )],
        },
    ])
}

/// Frames of a capture that a display filter of tshark's takes.
fn frames(path: &Path, filter: &str) -> usize {
    let done = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(path)
        .args(["-Y", filter])
        .output()
        .expect("tshark");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    String::from_utf8_lossy(&done.stdout).lines().count()
}

/// The client's frames bear the cluster's address, and each is served.
fn multicast_serves(lab: &Lab, mac: &str, name: &str) {
    let (path, connections) = lab.capture("client", "wire0", name, || {
        lab.load(&["count=200", "threads=2", "path=/b/group-{}"])
    });
    lab.assert_answered(&connections, 200, None);
    let capture = Capture::read(lab, &path);
    assert!(capture.resets.is_empty(), "{capture}");
    let to_cluster = frames(&path, &format!("tcp && eth.dst == {mac}"));
    let from_client = frames(&path, "tcp.dstport == 80");
    assert_eq!(to_cluster, from_client, "frames to the VIP");
    assert!(to_cluster > 600, "only {to_cluster} frames");
    assert_eq!(frames(&path, &format!("eth.src == {mac}")), 0, "its source");
}

fn a_multicast_address_serves(lab: &Lab) {
    multicast_serves(lab, "03:bf:0a:4d:00:64", "multicast");
}

fn a_group_that_nodes_join_serves(lab: &Lab) {
    multicast_serves(lab, "01:00:5e:7f:00:64", "igmp");
    // A router asks; each node says within a second that it is there.
    let query = "import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'wire0')
m = struct.pack('!BBH4s', 0x11, 10, 0, bytes(4))
c = sum(struct.unpack('!4H', m)); c = ~((c & 0xffff) + (c >> 16)) & 0xffff
s.sendto(struct.pack('!BBH4s', 0x11, 10, c, bytes(4)), ('224.0.0.1', 0))";
    let (path, ()) = lab.capture("client", "wire0", "igmp-query", || {
        lab.exec("client", &["python3", "-c", query]);
        std::thread::sleep(Duration::from_millis(1_500));
    });
    assert_eq!(frames(&path, "igmp.type == 0x11"), 1, "the question");
    let net = lab.fact("WIRE_NET");
    for node in 1..=3 {
        let report = "igmp.type == 0x16 && igmp.maddr == 239.255.0.100";
        let report = format!("{report} && ip.src == {net}.{node}");
        assert_eq!(frames(&path, &report), 1, "node {node}");
    }
}

/// A host that claims the VIP for itself is noticed by each node, and one that sends from
/// the cluster's address.
fn what_takes_frames_elsewhere_is_noticed(lab: &Lab) {
    let heard = |fault| lab.total("dts_layer2_faults_total", &[("fault", fault)]);
    let before = (heard("vip_conflict"), heard("cluster_mac_source"));
    let claim = "import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('wire0', 0))
other, cluster = bytes.fromhex('02bb00000001'), bytes.fromhex('02005e000064')
vip = socket.inet_aton(sys.argv[1])
arp = bytes.fromhex('0001080006040002') + other + vip + bytes(6) + vip
s.send(b'\\xff' * 6 + other + bytes.fromhex('0806') + arp + bytes(18))
s.send(b'\\xff' * 6 + cluster + bytes.fromhex('88b5') + bytes(46))";
    lab.exec("client", &["python3", "-c", claim, lab.fact("VIP")]);
    // The switch believes the second frame: the client's port alone would get the cluster's
    // frames until it forgets, five minutes.
    let forget = "ip link set dev wc type bridge_slave fdb_flush";
    lab.exec("sw", &forget.split(' ').collect::<Vec<_>>());
    // Counters are told on at most a second later.
    let until = Instant::now() + Duration::from_secs(5);
    let want = (before.0 + 3, before.1 + 3);
    let mut is = before;
    while is != want && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        is = (heard("vip_conflict"), heard("cluster_mac_source"));
    }
    assert_eq!(is, want, "heard by three nodes");
}

/// The wire has no tag here: that needs VLAN interfaces at the client, which not every
/// kernel has. The virtual machine's test has them.
fn a_tagged_link_carries_handovers(lab: &Lab) {
    // The kernel's own greetings, as the link comes up, may have been untagged.
    let strange = || {
        ["vlan_untagged", "vlan_other", "too_long"]
            .map(|reason| lab.total("dts_drops_total", &[("reason", reason)]))
    };
    let strangers = strange();
    let before = replays(lab);
    let (path, connections) = lab.capture("node2", "link0", "tagged", || {
        let connections = lab.load(&["count=200", "threads=2", "path=/b/vlan-{}"]);
        let large = ["count=20", "threads=2", "path=/b/vlan-large-{}", "pad=7000"];
        lab.assert_answered(&lab.load(&large), 20, None);
        connections
    });
    lab.assert_answered(&connections, 200, None);
    let after = replays(lab);
    let handed = after.0 + after.1 - before.0 - before.1;
    assert!(handed > 100, "only {handed} handovers");
    let ours = frames(&path, "vlan.id == 77 && tcp");
    assert!(
        ours as u64 > handed,
        "{ours} tagged frames of {handed} handovers"
    );
    assert_eq!(frames(&path, "(tcp || udp) && !vlan"), 0, "untagged frames");
    assert_eq!(strange(), strangers);
}

fn two_owners_reset_nobody(lab: &Lab) {
    let lost = || lab.total("dts_drops_total", &[("reason", "ack_mismatch")]);
    let before = lost();
    let (path, (one, many)) = lab.capture("client", "wire0", "two-owners", || {
        let pools =
            ["a", "b", "c"].map(|pool| lab.load(&["count=150", &format!("path=/{pool}/two-{{}}")]));
        (
            pools,
            lab.load(&["count=300", "threads=60", "path=/p/two-{}"]),
        )
    });
    let capture = Capture::read(lab, &path);
    for connections in &one {
        lab.assert_answered(connections, 150, None);
    }
    lab.assert_answered(&many, 300, None);
    let reset: Vec<_> = (capture.streams.values())
        .filter(|s| !s.resets.is_empty())
        .collect();
    assert!(reset.is_empty(), "{reset:?}; {capture}");
    // The one that lost hears an acknowledgement that is not of its SYN-ACK, and from
    // then on keeps its stack's SYN-ACK to itself; often before it is out.
    let lost = lost() - before;
    assert!(
        lost >= 750,
        "only {lost} of 750 connections had a second owner"
    );
    let both = capture
        .streams
        .values()
        .filter(|s| s.owners.contains(&1) && s.owners.contains(&2))
        .count();
    assert!(both > 0, "no SYN was answered by both owners");
    let won = |node| {
        capture
            .streams
            .values()
            .filter(|s| s.owners.first() == Some(&node))
            .count()
    };
    assert!(
        won(1) > 0 && won(2) > 0,
        "node 1 won {} connections and node 2 {}",
        won(1),
        won(2)
    );
    for (path, nodes) in lab.executed("/two-") {
        // Four loads use the numbers 0..150 under their own prefixes.
        assert_eq!(nodes.len(), 1, "{path} was executed by {nodes:?}");
    }
}

fn replays(lab: &Lab) -> (u64, u64) {
    let of = |replay| lab.total("dts_replays_total", &[("replay", replay)]);
    (of("fast_open"), of("handshake"))
}

fn without_fast_open_by_handshake(lab: &Lab) {
    let (fast_open, handshake) = replays(lab);
    let (path, connections) = lab.capture("client", "wire0", "handshake", || {
        lab.load(&["count=300", "path=/p/hs-{}"])
    });
    lab.assert_answered(&connections, 300, None);
    assert_eq!(
        replays(lab),
        (fast_open, handshake + 300),
        "(fast open, handshake)"
    );
    assert_eq!(fast_open, 0);
    let capture = Capture::read(lab, &path);
    let slow: Vec<_> = capture
        .first_bytes()
        .filter(|(_, ms)| *ms >= 150.0)
        .collect();
    assert!(
        slow.is_empty() && capture.resets.is_empty(),
        "{slow:?}; {capture}"
    );
    // The cost of the fallback is told, not judged: the stack believes in a round
    // trip of no time (PROTOCOL, section 4, step 5).
    println!("handshake replay: {capture}");
}

fn without_fast_open_large_and_half_closed(lab: &Lab) {
    let (_, handshake) = replays(lab);
    lab.assert_answered(
        &lab.load(&["count=60", "threads=2", "path=/p/hs-large-{}", "pad=7000"]),
        60,
        None,
    );
    lab.assert_answered(
        &lab.load(&[
            "count=60",
            "threads=2",
            "path=/p/hs-half-{}",
            "half_close=1",
        ]),
        60,
        None,
    );
    let upload = [
        "count=30",
        "threads=2",
        "path=/upload/hs-{}",
        "method=PUT",
        "body=100000",
        "body_chunk=1000",
    ];
    lab.assert_answered(&lab.load(&upload), 30, None);
    assert_eq!(replays(lab), (0, handshake + 150), "(fast open, handshake)");
}

fn with_fast_open_by_fast_open(lab: &Lab) {
    let (fast_open, handshake) = replays(lab);
    lab.assert_answered(
        &lab.load(&["count=200", "threads=2", "path=/p/tfo-{}"]),
        200,
        None,
    );
    assert_eq!(
        replays(lab),
        (fast_open + 200, handshake),
        "(fast open, handshake)"
    );
    assert_eq!(handshake, 0);
}

fn a_source_of_the_paper_form_is_served(lab: &Lab) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/frames.py");
    let names = ["client", "node1", "node2"].map(|n| format!("{n}={}", lab.namespace(n)));
    let before = lab
        .metrics(2)
        .sum("dts_replays_total", &[("replay", "paper")]);
    let done = Command::new("python3")
        .arg(script)
        .args(&names)
        .arg("paper")
        .output()
        .expect("python3");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "served node2");
    assert_eq!(
        lab.metrics(2)
            .sum("dts_replays_total", &[("replay", "paper")])
            - before,
        1.0
    );
    let executed = lab.executed("/b/paper-");
    assert!(
        executed.values().all(|nodes| nodes == &[2]) && executed.len() == 1,
        "{executed:?}"
    );
}
