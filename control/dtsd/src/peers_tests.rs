//! Rules of hearing, and two nodes on loopback.

use super::*;
use crate::metrics::Metrics;
use crate::snapshot::{Boot, build};
use crate::testkit::{config, config_v6, until};
use dts_config::NodeId;
use dts_proto::block::LinkKey;

const DEAD: Duration = Duration::from_secs(1);

fn view_of(node: u16, incarnation: u64) -> View {
    view_in(config(), node, incarnation)
}

fn view_in(mut config: dts_config::Config, node: u16, incarnation: u64) -> View {
    config.node = NodeId(node);
    build(
        &config,
        Boot {
            incarnation,
            steer_key: [0; 16],
        },
        [2; 6],
        [node as u8; 6],
    )
}

struct Rig {
    table: Table,
    view: View,
    members: Vec<Member>,
    start: Instant,
}

fn rig() -> Rig {
    let view = view_of(1, 5);
    let members = view.members.clone();
    Rig {
        table: Table {
            heard: HashMap::new(),
            dead_after: DEAD,
        },
        view,
        members,
        start: Instant::now(),
    }
}

fn hello(incarnation: u64, counter: u64) -> Hello {
    Hello {
        node: 2,
        incarnation,
        link_mac: [9; 6],
        counter,
    }
}

impl Rig {
    fn hear(&mut self, hello: Hello, from: [u8; 4], after: Duration) -> Heed {
        let bytes = hello.encode(&self.view.keys[0]);
        let now = self.start + after;
        self.table
            .hear(&bytes, Addr::v4(from), &self.view, &mut self.members, now)
    }

    fn second(&mut self, incarnation: u64, counter: u64) -> Heed {
        self.hear(hello(incarnation, counter), [127, 0, 0, 2], Duration::ZERO)
    }

    fn state(&mut self, after: Duration) -> &'static str {
        let now = self.start + after;
        self.table.age(1, &mut self.members, now);
        crate::fleet_metrics::peer_state(&self.members[1])
    }
}

#[test]
fn counters_must_rise_within_an_incarnation() {
    let mut rig = rig();
    assert_eq!(rig.second(7, 1), Heed::New);
    assert_eq!(rig.second(7, 2), Heed::Known);
    assert_eq!(rig.second(7, 9), Heed::Known);
    for counter in [9, 8, 1, 0] {
        assert_eq!(rig.second(7, counter), Heed::Ignored("replayed"));
    }
    // A restart counts from 1 again; the earlier start is over for good.
    assert_eq!(rig.second(8, 1), Heed::New);
    assert_eq!(rig.second(7, 1000), Heed::Ignored("replayed"));
    assert_eq!(rig.members[1].known, Some(([9; 6], 8)));
}

#[test]
fn only_members_from_their_own_address_are_heard() {
    let mut rig = rig();
    let at = Duration::ZERO;
    let stranger = Heed::Ignored("stranger");
    assert_eq!(rig.hear(hello(7, 1), [127, 0, 0, 3], at), stranger);
    assert_eq!(
        rig.hear(
            Hello {
                node: 3,
                ..hello(7, 1)
            },
            [127, 0, 0, 3],
            at
        ),
        stranger
    );
    // Nobody speaks for this node.
    assert_eq!(
        rig.hear(
            Hello {
                node: 1,
                ..hello(7, 1)
            },
            [127, 0, 0, 1],
            at
        ),
        stranger
    );
    assert_eq!(rig.members, rig.view.members);
}

#[test]
fn bad_bytes_change_nothing() {
    let mut rig = rig();
    let from = Addr::v4([127, 0, 0, 2]);
    let now = rig.start;
    let forged = hello(7, 1).encode(&LinkKey::new(1, b"not the cluster key."));
    let cases = [
        (&b"xyz"[..], "malformed"),
        (&[0; LEN], "malformed"),
        (&forged, "forged"),
    ];
    for (bytes, why) in cases {
        let heed = rig
            .table
            .hear(bytes, from, &rig.view, &mut rig.members, now);
        assert_eq!(heed, Heed::Ignored(why));
        assert!(RESULTS.contains(&why));
    }
    assert_eq!(rig.members, rig.view.members);
}

#[test]
fn silence_kills_and_a_hello_revives() {
    let mut rig = rig();
    let ms = Duration::from_millis;
    // Who never spoke is unknown, however long it is silent.
    assert_eq!(rig.state(DEAD * 100), "unknown");
    rig.second(7, 1);
    assert_eq!(rig.state(ms(999)), "alive");
    assert_eq!(rig.state(ms(1000)), "dead");
    assert_eq!(rig.state(ms(2999)), "dead");
    assert_eq!(rig.state(ms(3000)), "gone");
    assert_eq!(rig.hear(hello(7, 2), [127, 0, 0, 2], ms(3500)), Heed::Known);
    assert_eq!(rig.state(ms(3500)), "alive");
    assert!(!rig.members[1].gone);
    // This node itself does not depend on hearing itself.
    assert!(rig.members[0].alive);
}

/// A port that nobody else in this process binds.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

struct Node {
    views: Arc<ArcSwap<View>>,
    heard: Arc<Heard>,
    metrics: Metrics,
    _peers: Peers,
}

fn node(id: u16, config: &dts_config::Peers) -> Node {
    start(view_of(id, u64::from(id) * 100), config)
}

fn start(view: View, config: &dts_config::Peers) -> Node {
    let views = Arc::new(ArcSwap::from_pointee(view));
    let (heard, metrics) = (Arc::new(Heard::default()), Metrics::new().unwrap());
    let peers = Peers::start(
        config,
        Arc::clone(&views),
        Arc::clone(&heard),
        Arc::clone(&metrics.peers),
    );
    Node {
        views,
        heard,
        metrics,
        _peers: peers.unwrap(),
    }
}

impl Node {
    fn sees(&self, id: u16) -> &'static str {
        crate::fleet_metrics::peer_state(self.views.load().member(id).unwrap())
    }
}

#[test]
fn two_nodes_find_each_other_at_once_and_notice_an_end() {
    let config = dts_config::Peers {
        // Far more than the test may take: only the answer to a first hello can
        // be quick.
        interval: Duration::from_secs(20),
        dead_after: Duration::from_secs(40),
        port: free_port(),
    };
    let one = node(1, &config);
    let two = node(2, &config);
    until(|| one.sees(2) == "alive" && two.sees(1) == "alive");
    assert_eq!(
        one.views.load().member(2).unwrap().known,
        Some(([2; 6], 200))
    );
    assert!(one.heard.silence(2).unwrap() < Duration::from_secs(20));
    assert_eq!(one.heard.silence(1), None);
    assert!(one.metrics.peers.get("accepted") >= 1);

    let noise = UdpSocket::bind("127.0.0.2:0").unwrap();
    noise.send_to(b"noise", ("127.0.0.1", config.port)).unwrap();
    until(|| one.metrics.peers.get("malformed") == 1);
    drop((one, two));

    let quick = dts_config::Peers {
        interval: Duration::from_millis(10),
        dead_after: Duration::from_millis(300),
        port: config.port,
    };
    let one = node(1, &quick);
    let two = node(2, &quick);
    until(|| one.sees(2) == "alive");
    drop(two);
    until(|| one.sees(2) == "dead");
    until(|| one.sees(2) == "gone");
    let _two = node(2, &quick);
    // The same incarnation again, from its first counter: replayed until it has
    // caught up, which it does.
    until(|| one.sees(2) == "alive");
}

/// The second address is not loopback's, so this has a network namespace of its own
/// and needs root.
#[test]
fn two_nodes_find_each_other_over_an_ipv6_link() {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test needs root");
        for arguments in ["link set lo up", "addr add fd77::2/128 dev lo nodad"] {
            let mut ip = std::process::Command::new("ip");
            assert!(ip.args(arguments.split(' ')).status().unwrap().success());
        }
        let config = dts_config::Peers {
            interval: Duration::from_secs(20),
            dead_after: Duration::from_secs(40),
            port: 7946,
        };
        let one = start(view_in(config_v6(), 1, 100), &config);
        let two = start(view_in(config_v6(), 2, 200), &config);
        until(|| one.sees(2) == "alive" && two.sees(1) == "alive");
        assert_eq!(
            one.views.load().member(2).unwrap().known,
            Some(([2; 6], 200))
        );
        assert_eq!(one.metrics.peers.get("stranger"), 0);
    };
    std::thread::spawn(body).join().unwrap();
}
