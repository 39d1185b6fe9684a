//! What is known of the members: who takes connections, and how many each has.

use dts_proto::rpc::Node;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a handover counts whose connection no report has had time to show.
const UNSEEN: Duration = Duration::from_secs(1);

/// Connections of one member.
#[derive(Debug, Default)]
struct Account {
    /// Handovers to it that have been decided on and not ended.
    under_way: u32,
    /// When those ended that it took and that it may not have counted yet.
    moved: VecDeque<Duration>,
    /// At its last count that followed some: how many of them it may still have had, and
    /// how many there were.
    lasted: Option<(usize, usize)>,
}

/// The members, as the daemon's last answer has them and with what this proxy has done
/// since.
///
/// A node's load is what it has counted, and what this proxy gave it since then: at most
/// all of that ([`Loads::most`]), and as a guess the share of it that the last count
/// showed of those given before ([`Loads::load`]), because short connections are over
/// before they are counted. What other nodes' proxies give it shows in its next count.
#[derive(Debug)]
pub struct Loads {
    accounts: HashMap<SocketAddr, Account>,
    nodes: HashMap<IpAddr, Node>,
    told: Option<Duration>,
    stale: Duration,
}

impl Loads {
    /// Nothing is known. An answer that is older than `stale` says nothing any more.
    #[must_use]
    pub fn new(stale: Duration) -> Self {
        Self {
            accounts: HashMap::new(),
            nodes: HashMap::new(),
            told: None,
            stale,
        }
    }

    /// The daemon's answer, received at `now`.
    pub fn tell(&mut self, nodes: Vec<Node>, now: Duration) {
        self.nodes = nodes.into_iter().map(|node| (node.link, node)).collect();
        self.told = Some(now);
        for (address, account) in &mut self.accounts {
            let service = service(&self.nodes, *address);
            let counted = service.map(|(_, age)| now.saturating_sub(age));
            let unseen = now.saturating_sub(UNSEEN);
            let forgotten = account.forget(counted.unwrap_or(unseen).max(unseen));
            match service {
                // They are among those that were counted, if they are there.
                Some((there, _)) if forgotten > 0 => {
                    account.lasted = Some((forgotten.min(there as usize), forgotten));
                }
                Some(_) => {}
                None => account.lasted = None,
            }
        }
    }

    fn fresh(&self, now: Duration) -> bool {
        self.told
            .is_some_and(|told| now.saturating_sub(told) <= self.stale)
    }

    /// Whether `member` may get a connection: its node is active and does not call its
    /// application unhealthy. A node of which nothing is known may; the daemon says no.
    #[must_use]
    pub fn takes(&self, member: SocketAddr, now: Duration) -> bool {
        let node = self.nodes.get(&member.ip());
        !self.fresh(now) || node.is_none_or(|node| node.takes(member.port()))
    }

    /// Connections that `member` has, as a guess.
    #[must_use]
    pub fn load(&self, member: SocketAddr, now: Duration) -> u32 {
        self.sum(member, now, |account, moved| match account.lasted {
            Some((there, of)) => (moved * there).div_ceil(of.max(1)),
            None => moved,
        })
    }

    /// Connections that `member` has if none of those has ended that it was given lately.
    #[must_use]
    pub fn most(&self, member: SocketAddr, now: Duration) -> u32 {
        self.sum(member, now, |_, moved| moved)
    }

    fn sum(
        &self,
        member: SocketAddr,
        now: Duration,
        there: impl Fn(&Account, usize) -> usize,
    ) -> u32 {
        let fresh = self.fresh(now);
        let counted = fresh.then(|| service(&self.nodes, member)).flatten();
        let unseen = now.saturating_sub(UNSEEN);
        let given = self.accounts.get(&member).map_or(0, |account| {
            let moved = account.moved.iter().filter(|&&at| at >= unseen).count();
            let moved = u32::try_from(there(account, moved)).unwrap_or(u32::MAX);
            account.under_way.saturating_add(moved)
        });
        counted
            .map_or(0, |(connections, _)| connections)
            .saturating_add(given)
    }

    /// A handover to `member` is decided on.
    pub fn begin(&mut self, member: SocketAddr) {
        self.accounts.entry(member).or_default().under_way += 1;
    }

    /// It has ended, and `member` has the connection or not.
    pub fn end(&mut self, member: SocketAddr, moved: bool, now: Duration) {
        let account = self.accounts.entry(member).or_default();
        account.under_way = account.under_way.saturating_sub(1);
        account.forget(now.saturating_sub(UNSEEN));
        if moved {
            account.moved.push_back(now);
        }
    }
}

impl Account {
    /// What was given before `until` has been counted, or is over: how many that were.
    fn forget(&mut self, until: Duration) -> usize {
        let before = self.moved.len();
        while self.moved.front().is_some_and(|&at| at < until) {
            self.moved.pop_front();
        }
        before - self.moved.len()
    }
}

/// Connections of a member by its node's own count, and the age of the count.
fn service(nodes: &HashMap<IpAddr, Node>, member: SocketAddr) -> Option<(u32, Duration)> {
    let services = &nodes.get(&member.ip())?.services;
    let service = services.iter().find(|s| s.port == member.port())?;
    let age = Duration::from_millis(service.age_ms.into());
    Some((service.connections, age))
}
