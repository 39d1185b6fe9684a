//! What is known of the nodes' applications: what nodes say of their own, and what
//! handovers to them have shown.

use arc_swap::ArcSwap;
use dts_core::view::{Member, View};
use dts_proto::block::Reason;
use dts_proto::rpc::{Node, NodeState, ServiceState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A handover that found nobody listening counts against an application for this long,
/// unless its node says something newer.
const SUSPECT: Duration = Duration::from_secs(1);
/// What a node has said is forgotten after this time.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// What a node says of one of its application ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The application port.
    pub port: u16,
    /// Every check of its services is passed.
    pub healthy: bool,
    /// Connections of clients that the application has.
    pub connections: u32,
}

/// Who is told what a node's own checks find.
pub trait HealthSink: Send + Sync {
    /// The check of the service of this name is passed, or no more.
    fn set(&self, service: &str, healthy: bool);
}

/// The node's knowledge. Shared by those who write it (the node's checks, the reports of
/// other nodes, handovers) and those who read it (proxies, by the RPC).
pub struct Board {
    views: Arc<ArcSwap<View>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Of each node, and when it was said.
    said: HashMap<u16, (Instant, Vec<Said>)>,
    /// Node and application port that did not answer, and when.
    suspects: HashMap<(u16, u16), Instant>,
    /// Whose stack did not answer a handover, and when last.
    silent: HashMap<(u16, u16), Instant>,
    /// Own services whose check is not passed.
    ill: BTreeSet<String>,
}

impl Board {
    /// Nothing is known, and every application of this node counts as healthy.
    #[must_use]
    pub fn new(views: Arc<ArcSwap<View>>) -> Self {
        Self {
            views,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has said this of itself; also what this node counts of its own.
    pub fn note(&self, node: u16, said: Vec<Said>, now: Instant) {
        self.lock().said.insert(node, (now, said));
    }

    /// What this node has to say of itself, given its connections by application port.
    #[must_use]
    pub fn own(&self, connections: &BTreeMap<u16, u32>) -> Vec<Said> {
        let view = self.views.load();
        let inner = self.lock();
        let ports: BTreeSet<u16> = view.services.iter().map(|s| s.app_port).collect();
        let of = |port| {
            let mut services = view.services.iter().filter(|s| s.app_port == port);
            Said {
                port,
                healthy: services.all(|s| !inner.ill.contains(&s.name)),
                connections: connections.get(&port).copied().unwrap_or(0),
            }
        };
        ports.into_iter().map(of).collect()
    }

    /// A handover to `dest` was refused. Where that is because the application is not
    /// there, it is no destination for a while. A stack that did not answer in time may have been
    /// kept from it for a moment: that counts from the second time on.
    pub fn refused(&self, dest: SocketAddr, reason: Reason, now: Instant) {
        let silence = reason == Reason::Silence;
        if !silence && reason != Reason::NobodyListens {
            return;
        }
        let view = self.views.load();
        let Some(member) = view.member_at(&dest.ip().into()) else {
            return;
        };
        let key = (member.id, dest.port());
        let mut inner = self.lock();
        inner.suspects.retain(|_, since| now - *since < SUSPECT);
        inner.silent.retain(|_, since| now - *since < SUSPECT);
        if !silence || inner.silent.insert(key, now).is_some() {
            inner.suspects.insert(key, now);
        }
    }

    /// Every member as a proxy wants to know it.
    #[must_use]
    pub fn nodes(&self, now: Instant) -> Vec<Node> {
        let view = self.views.load();
        let inner = self.lock();
        let members = view.members.iter();
        members.map(|m| inner.node(m, now)).collect()
    }
}

impl HealthSink for Board {
    fn set(&self, service: &str, healthy: bool) {
        let mut inner = self.lock();
        if healthy {
            inner.ill.remove(service);
        } else {
            inner.ill.insert(service.to_owned());
        }
    }
}

impl Inner {
    fn node(&self, member: &Member, now: Instant) -> Node {
        let said = self.said.get(&member.id);
        let said = said.filter(|(at, _)| now.saturating_duration_since(*at) < FORGOTTEN);
        let suspected = |port: u16| {
            let since = self.suspects.get(&(member.id, port));
            since.is_some_and(|since| now.saturating_duration_since(*since) < SUSPECT)
        };
        let mut services: Vec<ServiceState> = Vec::new();
        if let Some((at, said)) = said {
            let age = now.saturating_duration_since(*at).as_millis();
            services.extend(said.iter().map(|s| ServiceState {
                port: s.port,
                healthy: s.healthy && !suspected(s.port),
                connections: s.connections,
                age_ms: u32::try_from(age).unwrap_or(u32::MAX),
            }));
        }
        let ports = self.suspects.keys().filter(|(node, _)| *node == member.id);
        for port in ports.map(|(_, port)| *port).filter(|port| suspected(*port)) {
            if services.iter().all(|s| s.port != port) {
                services.push(ServiceState {
                    port,
                    healthy: false,
                    connections: 0,
                    age_ms: 0,
                });
            }
        }
        Node {
            id: member.id,
            link: member.link.ip(),
            state: match (member.alive, member.takes) {
                (false, _) => NodeState::Dead,
                // For whatever reason: proxies need not tell them apart.
                (true, 0) => NodeState::Draining,
                (true, _) => NodeState::Active,
            },
            services,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Boot, build};
    use crate::testkit::config;

    struct Rig {
        board: Board,
        start: Instant,
    }

    fn rig() -> Rig {
        let mut config = config();
        let mut again = config.services[0].clone();
        (again.name, again.vip) = ("six".into(), "fd77::100".parse().unwrap());
        let mut mail = again.clone();
        (mail.name, mail.application_port) = ("mail".into(), 25);
        config.services.extend([again, mail]);
        let boot = Boot {
            incarnation: 1,
            steer_key: [0; 16],
        };
        let mut view = build(&config, boot, [2; 6], [4; 6]);
        view.members[1].alive = true;
        Rig {
            board: Board::new(Arc::new(ArcSwap::from_pointee(view))),
            start: Instant::now(),
        }
    }

    impl Rig {
        /// Node 2 as it is known after so many milliseconds.
        fn second(&self, millis: u64) -> Node {
            let nodes = self.board.nodes(self.start + Duration::from_millis(millis));
            assert_eq!(nodes.len(), 2);
            assert_eq!(
                (nodes[1].id, nodes[1].link.to_string()),
                (2, "127.0.0.2".into())
            );
            nodes[1].clone()
        }
    }

    fn said(healthy: bool, connections: u32) -> Said {
        Said {
            port: 80,
            healthy,
            connections,
        }
    }

    #[test]
    fn what_a_node_says_is_passed_on_with_its_age_and_forgotten() {
        let rig = rig();
        assert_eq!(rig.second(0).services, []);
        rig.board.note(2, vec![said(false, 7)], rig.start);
        let known = ServiceState {
            port: 80,
            healthy: false,
            connections: 7,
            age_ms: 40,
        };
        assert_eq!(rig.second(40).services, [known]);
        rig.board.note(2, vec![said(true, 8)], rig.start);
        assert!(rig.second(2999).takes(80));
        assert_eq!(rig.second(3000).services, []);
    }

    #[test]
    fn a_port_is_healthy_when_all_its_services_are() {
        let rig = rig();
        let healthy = || -> Vec<(u16, bool)> {
            let own = rig.board.own(&BTreeMap::new());
            own.iter().map(|s| (s.port, s.healthy)).collect()
        };
        assert_eq!(healthy(), [(25, true), (80, true)]);
        rig.board.set("web", false);
        rig.board.set("six", false);
        assert_eq!(healthy(), [(25, true), (80, false)]);
        rig.board.set("web", true);
        assert_eq!(healthy(), [(25, true), (80, false)]);
        rig.board.set("six", true);
        rig.board.set("mail", false);
        assert_eq!(healthy(), [(25, false), (80, true)]);
        let counted = rig.board.own(&BTreeMap::from([(80, 3), (81, 4)]));
        assert_eq!(counted[1].connections, 3);
    }

    #[test]
    fn an_application_that_is_not_there_is_no_destination_for_a_while() {
        let rig = rig();
        let dest: SocketAddr = "127.0.0.2:80".parse().unwrap();
        rig.board.note(2, vec![said(true, 1)], rig.start);
        // These say nothing of the application.
        for reason in [
            Reason::Busy,
            Reason::Options,
            Reason::NoMemory,
            Reason::Aborted,
        ] {
            rig.board.refused(dest, reason, rig.start);
            assert!(rig.second(0).takes(80), "{reason:?}");
        }
        // Once is no silence.
        rig.board.refused(dest, Reason::Silence, rig.start);
        assert!(rig.second(0).takes(80));
        for reason in [Reason::NobodyListens, Reason::Silence] {
            rig.board.refused(dest, reason, rig.start);
            assert!(!rig.second(0).takes(80));
            assert!(!rig.second(999).takes(80));
            assert!(rig.second(1000).takes(80));
        }
        let other: SocketAddr = "127.0.0.2:25".parse().unwrap();
        rig.board.refused(other, Reason::NobodyListens, rig.start);
        assert!(!rig.second(0).takes(25), "a port of which nothing was said");
        let stranger: SocketAddr = "127.0.0.9:80".parse().unwrap();
        rig.board
            .refused(stranger, Reason::NobodyListens, rig.start);
    }

    #[test]
    fn a_member_that_is_not_heard_takes_nothing() {
        let rig = rig();
        let mut view = View::clone(&rig.board.views.load());
        view.members[1].alive = false;
        rig.board.views.store(Arc::new(view));
        assert_eq!(rig.second(0).state, NodeState::Dead);
        assert_eq!(rig.board.nodes(rig.start)[0].state, NodeState::Active);
    }
}
