//! Locality-aware request distribution (Pai, Aron, Banga, Svendsen, Druschel,
//! Zwaenepoel and Nahum, *Locality-Aware Request Distribution in Cluster-based Network
//! Servers*, ASPLOS 1998, section 2): basic LARD (figure 2 there) and LARD with
//! replication (figure 3).
//!
//! A target (a path) is served by the node that has it, so that each node's cache holds
//! a part of the working set; it moves, or with replication gets one node more, when its
//! node is overloaded. A node below `low` has resources idle, one above `high` makes
//! clients wait. Thresholds are those of a member of full weight.
//!
//! Two things are not as in the paper. Its front end is one; here every node has one,
//! and each has a table of its own. So that they agree about targets they have not seen
//! yet, [`Assign::Hash`] gives a new target to the first node of its hash order that is
//! below `low`; only when none is, to the least loaded one, as the paper does
//! ([`Assign::LeastLoaded`]). And the table is bounded: what was asked for least
//! recently is forgotten, which costs little, as it is in no cache any more either.

use super::{Candidate, hash, least};
use lru::LruCache;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Parameters; the paper's values are 25, 65 and 20 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// T_low, connections: below it a node has idle resources.
    pub low: u32,
    /// T_high, connections, above `low`: above it a node delays its clients.
    pub high: u32,
    /// With replication: K, how long a target's set of nodes stays as it is before one
    /// is taken away. `None`: basic LARD.
    pub replicas: Option<Duration>,
    /// Most targets that are remembered, at least 1.
    pub targets: usize,
    /// Where a target goes that nobody has.
    pub assign: Assign,
}

/// Where a target goes that nobody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assign {
    /// To the first node of its hash order that is below `low`, else to the least loaded.
    #[default]
    Hash,
    /// To the least loaded node, as in the paper.
    LeastLoaded,
}

/// The nodes that serve a target; the paper's `server` and `serverSet`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Servers {
    at: Vec<SocketAddr>,
    /// When the set changed; the paper's `lastMod`.
    changed: Duration,
}

/// Which target is where.
#[derive(Debug)]
pub struct Table {
    /// Targets by a keyed hash of 128 bits, because clients may make them long.
    servers: LruCache<u128, Servers>,
    key: [u8; 16],
}

impl Table {
    /// An empty table for `targets` targets (at least 1 is taken), with a secret key.
    #[must_use]
    pub fn new(targets: usize, key: [u8; 16]) -> Self {
        let targets = NonZeroUsize::new(targets).unwrap_or(NonZeroUsize::MIN);
        Self {
            servers: LruCache::new(targets),
            key,
        }
    }

    /// Targets in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether no target is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The nodes of `target`; does not count as a use.
    #[must_use]
    pub fn servers(&self, target: &[u8]) -> &[SocketAddr] {
        let servers = self.servers.peek(&self.name(target));
        servers.map_or(&[], |servers| &servers.at)
    }

    fn name(&self, target: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(target);
        hasher.finish128().as_u128()
    }

    /// The node for a request for `target`.
    pub fn choose(
        &mut self,
        params: &Params,
        target: &[u8],
        candidates: &[Candidate<'_>],
        now: Duration,
    ) -> Option<usize> {
        let name = self.name(target);
        let old = self.servers.get(&name).cloned().unwrap_or_default();
        let mut servers = old.clone();
        // A node that is dead, unhealthy or has refused is none of the target's.
        let has = |at: &SocketAddr| candidates.iter().any(|c| c.address == *at);
        servers.at.retain(has);
        let chosen = match params.replicas {
            None => basic(params, &mut servers.at, target, candidates)?,
            Some(k) => {
                let age = now.saturating_sub(old.changed);
                replicated(params, &mut servers.at, target, candidates, age > k)?
            }
        };
        if servers.at != old.at {
            servers.changed = now;
            self.servers.put(name, servers);
        }
        Some(chosen)
    }
}

/// Figure 2: a target has one node and leaves it only when that is overloaded.
fn basic(
    params: &Params,
    server: &mut Vec<SocketAddr>,
    target: &[u8],
    candidates: &[Candidate<'_>],
) -> Option<usize> {
    let n = candidates.iter().position(|c| server.contains(&c.address));
    let chosen = match n {
        None => assign(params, target, candidates)?,
        Some(n) if overloaded(params, &candidates[n], candidates) => {
            least::choose(candidates, target)?
        }
        Some(n) => n,
    };
    *server = vec![candidates[chosen].address];
    Some(chosen)
}

/// Figure 3: a target gets one node more when the least loaded of its nodes is
/// overloaded, and loses its most loaded one when its set has not changed for `K`.
fn replicated(
    params: &Params,
    set: &mut Vec<SocketAddr>,
    target: &[u8],
    candidates: &[Candidate<'_>],
    settled: bool,
) -> Option<usize> {
    let order = hash::order(candidates, target);
    let among = || {
        order
            .iter()
            .copied()
            .filter(|&i| set.contains(&candidates[i].address))
    };
    let load = |i: &usize| candidates[*i].relative_load();
    let Some(mut n) = among().min_by_key(load) else {
        let n = assign(params, target, candidates)?;
        *set = vec![candidates[n].address];
        return Some(n);
    };
    let most = among().max_by_key(load).map(|i| candidates[i].address);
    if overloaded(params, &candidates[n], candidates) {
        n = least::choose(candidates, target)?;
        if !set.contains(&candidates[n].address) {
            set.push(candidates[n].address);
        }
    }
    if set.len() > 1 && settled {
        // The one that gets this request stays, also where all are as loaded.
        let chosen = candidates[n].address;
        set.retain(|at| Some(*at) != most || *at == chosen);
    }
    Some(n)
}

/// The condition of both figures: n.load > T_high while another node is below T_low, or
/// n.load >= 2 T_high.
fn overloaded(params: &Params, n: &Candidate<'_>, candidates: &[Candidate<'_>]) -> bool {
    let scaled = |threshold: u32| u64::from(threshold) * 100;
    let idle = candidates
        .iter()
        .any(|c| c.relative_load() < scaled(params.low));
    (n.relative_load() > scaled(params.high) && idle)
        || n.relative_load() >= 2 * scaled(params.high)
}

fn assign(params: &Params, target: &[u8], candidates: &[Candidate<'_>]) -> Option<usize> {
    let low = u64::from(params.low) * 100;
    let idle = |i: &usize| candidates[*i].relative_load() < low;
    let by_hash = match params.assign {
        Assign::Hash => hash::order(candidates, target).into_iter().find(idle),
        Assign::LeastLoaded => None,
    };
    by_hash.or_else(|| least::choose(candidates, target))
}
