//! Nodes on loopback: real sockets, real time.

use super::*;
use crate::metrics::Metrics;
use crate::snapshot::{self, Boot};
use crate::testkit::{config, config_v6, until};
use arc_swap::ArcSwap;
use dts_config::{Config, NodeId};
use dts_core::view::View;
use dts_membership::{Refused, State, TcpCaps};
use dts_owners::Plan;

struct Node {
    id: u16,
    views: Arc<ArcSwap<View>>,
    metrics: Arc<MemberMetrics>,
    members: Members,
    asked: Receiver<Asked>,
}

fn start(mut config: Config, id: u16, port: u16, incarnation: u64) -> Node {
    config.node = NodeId(id);
    config.peers.port = port;
    let boot = Boot {
        incarnation,
        steer_key: [0; 16],
    };
    let mac = [id as u8; 6];
    let views = Arc::new(ArcSwap::from_pointee(snapshot::build(
        &config, boot, [2; 6], mac,
    )));
    let own = snapshot::own_record(&config, &boot, mac, TcpCaps::default());
    let begin = Instant::now();
    let core = Membership::new(
        own,
        &snapshot::peers(&config),
        snapshot::link_keys(&config),
        snapshot::settings(&config),
        u64::from(id),
        begin.elapsed(),
    );
    let socket = UdpSocket::bind((config.this_member().link, port)).unwrap();
    let publisher = Publisher::start(Plan::of(&config), Arc::clone(&views)).unwrap();
    let metrics = Arc::clone(&Metrics::new().unwrap().members);
    let (mail, asked) = crate::local::mailbox();
    let counts = Arc::clone(&metrics);
    let members = Members::start(core, begin, socket, port, counts, publisher, mail);
    Node {
        id,
        views,
        metrics,
        members: members.unwrap(),
        asked,
    }
}

impl Node {
    /// The buckets that a node owns by this one's view, of 4096.
    fn share(&self, id: u16) -> usize {
        self.views.load().services[0].buckets.share(id)
    }

    fn sees(&self, id: u16) -> &'static str {
        crate::fleet_metrics::peer_state(self.views.load().member(id).unwrap())
    }

    fn ask<T>(&self, what: impl AsyncFnOnce(Handle) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(what(self.members.handle()))
    }

    fn wish(&self, node: u16, wish: Wish) -> Result<(), WishError> {
        self.ask(async |h| h.wish(node, wish).await)
    }

    fn seen(&self, node: u16) -> Seen {
        let roster = self.ask(async |h| h.look().await).unwrap();
        roster
            .members
            .into_iter()
            .find(|m| m.peer.node == node)
            .unwrap()
    }
}

/// A port that nobody else in this process binds.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Waits until the two know each other and share the buckets.
fn meet(one: &Node, two: &Node) {
    until(|| one.sees(2) == "alive" && two.sees(1) == "alive");
    until(|| one.share(2) == 2048 && two.share(1) == 2048);
}

fn pair(port: u16) -> (Node, Node) {
    let one = start(config(), 1, port, 100);
    let two = start(config(), 2, port, 200);
    meet(&one, &two);
    (one, two)
}

#[test]
fn a_node_alone_owns_all_and_shares_with_who_comes() {
    let port = free_port();
    let one = start(config(), 1, port, 100);
    // Until it has asked around it owns its share only.
    assert_eq!((one.share(1), one.share(2)), (2048, 2048));
    until(|| one.share(1) == 4096);
    assert_eq!(one.sees(2), "unknown");
    let two = start(config(), 2, port, 200);
    meet(&one, &two);
    let known = one.views.load().member(2).unwrap().known;
    assert_eq!(known, Some(([2; 6], 200)));
    assert_eq!((one.sees(2), two.sees(1)), ("alive", "alive"));
    let owners = |n: &Node| n.views.load().services[0].buckets.owners().to_vec();
    assert_eq!(owners(&one), owners(&two));
    assert!(one.metrics.get("accepted") > 0);
}

#[test]
fn a_goodbye_gives_the_share_away_at_once() {
    let (one, two) = pair(free_port());
    drop(two);
    until(|| one.share(1) == 4096);
    // Nobody had to miss it.
    assert_eq!(one.seen(2).liveness, Liveness::Left);
    assert_eq!(one.sees(2), "gone");
}

#[test]
fn a_node_that_falls_silent_is_dead_and_comes_back() {
    let port = free_port();
    let mut config = config();
    config.peers.gone = Duration::from_millis(400);
    let one = start(config.clone(), 1, port, 100);
    {
        let two = start(config.clone(), 2, port, 200);
        meet(&one, &two);
        // Its thread waits for a lock that the test has: it neither hears nor speaks.
        let (ring, bell) = std::sync::mpsc::channel::<()>();
        let stuck = two.members.handle();
        stuck.tell(Request::Stop(bell));
        until(|| one.share(1) == 4096);
        until(|| one.sees(2) == "dead" || one.sees(2) == "gone");
        until(|| one.sees(2) == "gone");
        drop(ring);
        until(|| one.share(2) == 2048 && two.share(2) == 2048);
        assert_eq!(one.seen(2).generation, 1);
        assert_eq!(one.seen(2).record.unwrap().incarnation, 200);
    }
}

#[test]
fn wishes_reach_the_node_that_they_are_for() {
    let (one, two) = pair(free_port());
    assert_eq!(one.wish(2, Wish::Drain), Ok(()));
    until(|| one.share(1) == 4096 && two.share(1) == 4096);
    assert_eq!(two.seen(2).record.unwrap().state, State::Draining);
    let takes = |n: &Node, id| n.views.load().member(id).unwrap().takes(0);
    assert!(takes(&one, 1) && !takes(&one, 2) && !takes(&two, 2));
    assert_eq!(two.wish(2, Wish::Activate), Ok(()));
    until(|| one.share(2) == 2048);
    assert_eq!(two.wish(1, Wish::Weight(0)), Ok(()));
    until(|| one.share(2) == 4096 && two.share(2) == 4096);
    assert_eq!(two.wish(1, Wish::Weight(100)), Ok(()));
    assert_eq!(one.wish(2, Wish::Standby), Ok(()));
    until(|| one.share(1) == 4096);
    // Whoever is on standby is there when nobody else is.
    assert_eq!(one.wish(1, Wish::Drain), Ok(()));
    until(|| one.share(2) == 4096 && two.share(2) == 4096);
    assert_eq!(one.wish(9, Wish::Drain), Err(WishError::NoSuchNode));
    let port = free_port();
    let alone = start(config(), 1, port, 300);
    assert_eq!(alone.wish(2, Wish::Drain), Err(WishError::NotThere));
}

#[test]
fn questions_are_answered_by_whoever_reads_the_mail() {
    let (one, two) = pair(free_port());
    let (handle, mail) = (two.members.handle(), two.asked.clone());
    let reader = std::thread::spawn(move || {
        let asked = mail.recv().unwrap();
        // It comes again while nobody answers.
        assert_eq!(mail.recv().unwrap(), asked);
        assert_eq!((asked.node, &asked.question[..]), (1, &b"how?"[..]));
        handle.answer(asked, b"well".to_vec());
    });
    let answer = one.ask(async |h| h.ask(2, b"how?".to_vec()).await);
    assert_eq!(answer, Ok(b"well".to_vec()));
    reader.join().unwrap();
    let nobody = one.ask(async |h| h.ask(9, Vec::new()).await);
    assert_eq!(nobody, Err(WishError::NoSuchNode));
    assert_eq!(two.members.handle().look_now().unwrap().members.len(), 2);
}

#[test]
fn load_and_health_are_told() {
    let (one, two) = pair(free_port());
    two.members.handle().set_load(5, true);
    until(|| {
        let r = one.seen(2).record.unwrap();
        (r.load, r.drained) == (5, true)
    });
    two.members.handle().set_health(0, false);
    until(|| one.share(1) == 4096 && two.share(1) == 4096);
    // What is no service's is shared as before.
    assert_eq!(one.views.load().general.share(2), 2048);
    two.members.handle().set_health(0, true);
    until(|| one.share(2) == 2048);
}

#[test]
fn strangers_are_counted_and_do_no_harm() {
    let port = free_port();
    let (one, two) = pair(port);
    let noise = UdpSocket::bind("127.0.0.3:0").unwrap();
    for bytes in [
        &b"noise"[..],
        &[0; 1300],
        b"DTSM\x02 of another version, with some bytes",
    ] {
        noise.send_to(bytes, ("127.0.0.1", port)).unwrap();
    }
    until(|| one.metrics.get("malformed") == 2 && one.metrics.get("version") == 1);
    for why in [Refused::Malformed, Refused::Version] {
        let (from, when) = one.metrics.last_refused(why).unwrap();
        assert_eq!(from, noise.local_addr().unwrap().ip());
        assert!(when.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(one.metrics.last_refused(Refused::Misdirected), None);
    // Another cluster's node on this network.
    let mut other = config();
    other.cluster.key = "f0".repeat(16).parse().unwrap();
    other.cluster.members[0].link = [127, 0, 0, 1].into();
    other.cluster.members[1].link = [127, 0, 0, 4].into();
    let foreign = start(other, 2, port, 400);
    until(|| one.metrics.get("key") > 1);
    // One with the right key and another's id.
    let mut twin = config();
    twin.cluster.members[1].link = [127, 0, 0, 5].into();
    let twin = start(twin, 2, port, 500);
    until(|| one.metrics.get("duplicate_id") > 1);
    assert_eq!((one.share(2), two.share(1)), (2048, 2048));
    assert_eq!(one.seen(2).record.unwrap().incarnation, 200);
    drop((foreign, twin));
    assert_eq!(one.id, 1);
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
        let one = start(config_v6(), 1, 7946, 100);
        let two = start(config_v6(), 2, 7946, 200);
        until(|| one.sees(2) == "alive" && two.sees(1) == "alive");
        assert_eq!(
            one.views.load().member(2).unwrap().known,
            Some(([2; 6], 200))
        );
        assert_eq!(one.metrics.get("duplicate_id"), 0);
    };
    std::thread::spawn(body).join().unwrap();
}
