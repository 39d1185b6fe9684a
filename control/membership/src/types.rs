//! What a membership core is told, and what it tells.

use crate::record::{Record, State};
use std::net::IpAddr;
use std::time::Duration;

/// A moment: the time since any fixed one, by a clock that never goes back.
pub type Time = Duration;

/// Times of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Each node probes one member in this time, and suspects it at the end.
    pub probe: Duration,
    /// After this much of it, others are asked to try. Less than `probe`.
    pub answer: Duration,
    /// How long a suspect has to speak up.
    pub suspect: Duration,
    /// After this long dead, what a member had counts as lost.
    pub gone: Duration,
    /// How often who is not there is asked to join.
    pub announce: Duration,
    /// How long a minority waits before it takes the others for dead. 0: not at all.
    pub minority: Duration,
    /// How often a scheduler looks at the loads. 0: nothing is scheduled. Equal on all nodes.
    pub schedule: Duration,
}

/// A member as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: u16,
    /// Its address on the link.
    pub link: IpAddr,
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Not heard of yet.
    Unknown,
    /// There.
    Alive,
    /// There, as far as known; somebody had no answer.
    Suspect,
    /// It did not answer.
    Dead,
    /// It said goodbye.
    Left,
}

impl Liveness {
    /// Every value.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Alive,
        Self::Suspect,
        Self::Dead,
        Self::Left,
    ];

    /// The word in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }

    pub(crate) const fn is_there(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A member as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As configured.
    pub peer: Peer,
    /// Whether it is there.
    pub liveness: Liveness,
    /// Since when.
    pub since: Time,
    /// What it had counts as lost: long dead, or left.
    pub gone: bool,
    /// How often it has rejoined.
    pub generation: u32,
    /// What it told of itself last, whether or not it is there.
    pub record: Option<Record>,
}

/// What a member is asked to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To take on nothing new.
    Drain,
    /// To take its share.
    Activate,
    /// To wait until nobody else is there.
    Standby,
    /// To have this weight, 0 to 100.
    Weight(u8),
}

impl Wish {
    pub(crate) fn encode(self) -> [u8; 2] {
        match self {
            Self::Drain => [1, 0],
            Self::Activate => [2, 0],
            Self::Standby => [3, 0],
            Self::Weight(w) => [4, w],
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [1, 0] => Some(Self::Drain),
            [2, 0] => Some(Self::Activate),
            [3, 0] => Some(Self::Standby),
            [4, w @ 0..=100] => Some(Self::Weight(w)),
            _ => None,
        }
    }

    pub(crate) fn is_fulfilled(self, r: &Record) -> bool {
        match self {
            Self::Drain => r.state == State::Draining,
            Self::Activate => r.state == State::Active,
            Self::Standby => r.state == State::Standby,
            Self::Weight(w) => r.weight == w,
        }
    }

    pub(crate) fn apply(self, r: &mut Record) {
        match self {
            Self::Drain => r.state = State::Draining,
            Self::Activate => r.state = State::Active,
            Self::Standby => r.state = State::Standby,
            Self::Weight(w) => r.weight = w,
        }
    }
}

/// What another node asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub node: u16,
    /// Its start.
    pub incarnation: u64,
    /// Its name for the question.
    pub ticket: u64,
    /// The question, as the caller of [`Membership::ask`](crate::Membership::ask) gave it.
    pub question: Vec<u8>,
}

/// Why a wish was not fulfilled, or a question not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// No node of the configuration has this id.
    #[error("no such node")]
    NoSuchNode,
    /// The node is not there.
    #[error("the node is not there")]
    NotThere,
    /// It did not answer in time.
    #[error("the node does not answer")]
    NoAnswer,
}

/// How a wish or a question ended: its ticket, and the answer (empty for a wish) or what went
/// wrong.
pub type Outcome = (u64, Result<Vec<u8>, WishError>);

/// Bytes for the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The member's link address.
    pub to: IpAddr,
    /// The message.
    pub bytes: Vec<u8>,
}
