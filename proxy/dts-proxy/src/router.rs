//! The member for each connection: health and room decide who may be chosen, a policy
//! chooses, and who finds no room waits. No clock and no socket: time and randomness are
//! arguments.

use crate::config::{Config, Full, Pool};
use crate::loads::Loads;
use crate::policy::{Candidate, Memory, Request};
use crate::rules::Route;
use dts_proto::rpc::Node;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A member for a connection, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one; it counts as loaded with the connection from now on, until
    /// [`Router::end`].
    Member(SocketAddr),
    /// No room.
    Full,
    /// No member is healthy, or none is left to ask.
    Nobody,
}

/// Which members are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// All of the pool's.
    All,
    /// Those of this node alone: the last ones to be asked.
    Local,
}

struct Waiting<T> {
    number: u64,
    route: Route,
    request: Request,
    who: T,
}

/// Decides for all connections of a proxy. `T` is what a waiting connection is told by.
pub struct Router<T> {
    config: Arc<Config>,
    loads: Loads,
    /// Of the policies, in their order.
    memories: Vec<Memory>,
    /// Of the pools, in their order; the oldest first.
    queues: Vec<VecDeque<Waiting<T>>>,
    last_number: u64,
}

impl<T> Router<T> {
    /// Nothing is known and nobody waits. `key` is secret and random.
    #[must_use]
    pub fn new(config: Arc<Config>, key: [u8; 16]) -> Self {
        let policies = config.policies.iter();
        Self {
            loads: Loads::new(config.nodes.stale),
            memories: policies.map(|policy| policy.memory(key)).collect(),
            queues: config.pools.iter().map(|_| VecDeque::new()).collect(),
            last_number: 0,
            config,
        }
    }

    /// The daemon's answer about nodes. Who waits may have room now: see
    /// [`Router::admit`].
    pub fn tell(&mut self, nodes: Vec<Node>, now: Duration) {
        self.loads.tell(nodes, now);
    }

    /// The handover to `member` has ended: it has the connection or not.
    pub fn end(&mut self, member: SocketAddr, moved: bool, now: Duration) {
        self.loads.end(member, moved, now);
    }

    /// What is known of the members.
    #[must_use]
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// Connections that wait for a pool.
    #[must_use]
    pub fn waiting(&self, pool: usize) -> usize {
        self.queues[pool].len()
    }

    /// The member for a connection that the `tried` ones did not take. `patient` is one
    /// that would wait.
    #[allow(clippy::too_many_arguments)]
    pub fn choose(
        &mut self,
        route: Route,
        request: &Request,
        tried: &[SocketAddr],
        among: Among,
        patient: bool,
        now: Duration,
        draw: u64,
    ) -> Choice {
        let config = Arc::clone(&self.config);
        let pool = &config.pools[route.pool];
        let asked = self.asked(&config, pool, tried, among, now);
        if asked.is_empty() {
            return Choice::Nobody;
        }
        let loads = &self.loads;
        let has_room = |c: &Candidate<'_>| {
            let max = pool.max_connections;
            max.is_none_or(|max| loads.most(c.address, now) < max)
        };
        let policy = &config.policies[route.policy];
        let memory = &mut self.memories[route.policy];
        let mut choose = |from: &[Candidate<'_>]| {
            let chosen = policy.choose(memory, request, from, now, draw)?;
            from.get(chosen).map(|c| (c.address, has_room(c)))
        };
        let with_room: Vec<_> = asked.iter().filter(|c| has_room(c)).copied().collect();
        // Those who wait were there first.
        let behind = patient && !self.queues[route.pool].is_empty();
        let chosen = match pool.full {
            Full::Next if behind => None,
            Full::Wait if patient => choose(&asked).filter(|(_, room)| *room),
            Full::Wait | Full::Next => choose(&with_room),
        };
        match chosen {
            Some((address, _)) => {
                self.loads.begin(address);
                Choice::Member(address)
            }
            None => Choice::Full,
        }
    }

    /// Healthy members that were not tried yet: backups only where no other is left.
    fn asked<'c>(
        &self,
        config: &Config,
        pool: &'c Pool,
        tried: &[SocketAddr],
        among: Among,
        now: Duration,
    ) -> Vec<Candidate<'c>> {
        let may = |address: SocketAddr| {
            let here = || config.local == Some(address.ip());
            !tried.contains(&address)
                && (among == Among::All || here())
                && self.loads.takes(address, now)
        };
        let of = |backup: bool| -> Vec<Candidate<'c>> {
            let members = pool.members.iter();
            members
                .filter(|m| m.backup == backup && m.weight > 0 && may(m.address))
                .map(|m| Candidate {
                    address: m.address,
                    name: m.name.as_deref(),
                    weight: m.weight,
                    load: self.loads.load(m.address, now),
                })
                .collect()
        };
        let first = of(false);
        if first.is_empty() { of(true) } else { first }
    }

    /// Lets a connection wait for room; its number, or `who` back where as many wait as
    /// may.
    ///
    /// # Errors
    /// The queue is full.
    pub fn wait(&mut self, route: Route, request: Request, who: T) -> Result<u64, T> {
        let queue = &mut self.queues[route.pool];
        if queue.len() >= self.config.pools[route.pool].queue_length {
            return Err(who);
        }
        self.last_number += 1;
        queue.push_back(Waiting {
            number: self.last_number,
            route,
            request,
            who,
        });
        Ok(self.last_number)
    }

    /// Takes a connection out of the queue; `false` when it is not there any more,
    /// because [`Router::admit`] has given it a member.
    pub fn give_up(&mut self, pool: usize, number: u64) -> bool {
        let queue = &mut self.queues[pool];
        let at = queue.iter().position(|waiting| waiting.number == number);
        at.is_some_and(|at| queue.remove(at).is_some())
    }

    /// Those who need not wait any more, the oldest first, each with what was chosen: a
    /// member, or nobody.
    pub fn admit(&mut self, now: Duration, draw: u64) -> Vec<(T, Choice)> {
        let mut admitted = Vec::new();
        for pool in 0..self.queues.len() {
            let mut queue = std::mem::take(&mut self.queues[pool]);
            let mut left = VecDeque::new();
            let all_wait_for_the_same = self.config.pools[pool].full == Full::Next;
            while let Some(waiting) = queue.pop_front() {
                let draw = draw.wrapping_add(waiting.number);
                let Waiting { route, request, .. } = &waiting;
                match self.choose(*route, request, &[], Among::All, true, now, draw) {
                    Choice::Full => {
                        left.push_back(waiting);
                        if all_wait_for_the_same {
                            break;
                        }
                    }
                    choice => admitted.push((waiting.who, choice)),
                }
            }
            left.append(&mut queue);
            self.queues[pool] = left;
        }
        admitted
    }
}
