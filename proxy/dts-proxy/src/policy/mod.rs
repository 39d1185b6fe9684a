//! How a pool chooses among its members: one file for each policy.
//!
//! A policy is a function of what it is given: the request, the members that may be
//! chosen with their loads, the time and a random number. [`crate::router`] has the
//! accounts and the clock.

pub mod bounded;
pub mod hash;
pub mod lard;
pub mod least;
pub mod sticky;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A member that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Link address of its node, and the application port there.
    pub address: SocketAddr,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// Its share, 1..=100.
    pub weight: u8,
    /// Connections that it has now, as far as that is known, and handovers to it that
    /// are under way.
    pub load: u32,
}

impl Candidate<'_> {
    /// Load of a member of full weight that is as busy as this one, in hundredths.
    pub(crate) fn relative_load(&self) -> u64 {
        u64::from(self.load) * 10_000 / u64::from(self.weight.max(1))
    }
}

/// What policies look at of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for: the path, or with TLS the server name.
    pub target: Option<Vec<u8>>,
    /// The client.
    pub source: IpAddr,
    /// Value of the cookie that the policy names.
    pub cookie: Option<String>,
}

/// A policy and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// By hash of the target: the same member on every node.
    PathHash,
    /// The same, but no member gets more than its share and `slack_percent` of it.
    BoundedHash {
        /// Epsilon, percent, 1..=1000.
        slack_percent: u32,
    },
    /// Locality-aware request distribution, basic or with replication.
    Lard(lard::Params),
    /// The member with the least connections for its weight.
    LeastConnections,
    /// At random, by weight.
    Weight,
    /// A client stays where it is.
    Sticky(sticky::By),
}

/// What a policy remembers from one connection to the next.
#[derive(Debug)]
pub enum Memory {
    /// Nothing.
    None,
    /// Which target is where.
    Lard(lard::Table),
}

impl Policy {
    /// The memory to begin with. `key` is secret and random: targets come from clients.
    #[must_use]
    pub fn memory(&self, key: [u8; 16]) -> Memory {
        match self {
            Self::Lard(params) => Memory::Lard(lard::Table::new(params.targets, key)),
            _ => Memory::None,
        }
    }

    /// Position in `candidates` of the member for this connection; `None` only when
    /// there is none. `now` is the time since any fixed moment, `draw` a random number.
    pub fn choose(
        &self,
        memory: &mut Memory,
        request: &Request,
        candidates: &[Candidate<'_>],
        now: Duration,
        draw: u64,
    ) -> Option<usize> {
        let random = draw.to_ne_bytes();
        let key = request.target.as_deref().unwrap_or(&random);
        match (self, memory) {
            (Self::PathHash, _) => hash::choose(candidates, key),
            (Self::BoundedHash { slack_percent }, _) => {
                bounded::choose(candidates, key, *slack_percent)
            }
            (Self::Lard(params), Memory::Lard(table)) => match &request.target {
                Some(target) => table.choose(params, target, candidates, now),
                None => least::choose(candidates, &random),
            },
            // A memory of another policy knows nothing of this one's targets.
            (Self::Lard(_), Memory::None) => least::choose(candidates, key),
            (Self::LeastConnections, _) => least::choose(candidates, &random),
            (Self::Weight, _) => hash::choose(candidates, &random),
            (Self::Sticky(by), _) => sticky::choose(by, request, candidates, draw),
        }
    }
}
