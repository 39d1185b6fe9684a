//! What daemons ask each other and tell each other, over the membership's envelope.
//!
//! A version byte, then a [postcard](https://postcard.jamesmunns.com/wire-format) value. A
//! daemon that does not understand a question says so ([`Answer::Unclear`]).

use dts_membership::{Membership, Refused};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// First byte of every question and answer.
const VERSION: u8 = 1;

/// What one daemon asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What do you know of this flow?
    Flow {
        /// Client address and port.
        client: SocketAddr,
        /// VIP and service port.
        vip: SocketAddr,
    },
    /// How are you?
    Facts,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Flow`]; `None` where there is no such service.
    Flow(Option<FlowReport>),
    /// To [`Question::Facts`].
    Facts(Facts),
    /// The question is not known here, or not to be read.
    Unclear,
}

/// What a node knows of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The epoch of the node's view; 0 where it does not take part in the membership.
    pub epoch: u64,
    /// The bucket of the flow.
    pub bucket: u32,
    /// Its owner, by the table that the workers use; 0: nobody.
    pub owner: u16,
    /// The FCB.
    pub entry: Entry,
}

/// Whether a node has an FCB of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// It has none.
    None,
    /// The worker that would have it did not answer.
    Silent,
    /// It has one.
    Fcb {
        /// Its state, as in `dts_flows`.
        state: String,
        /// The node that handed the flow over to this one.
        from: Option<u16>,
        /// The node that it was handed over to, or is being.
        to: Option<u16>,
        /// Since the FCB was made, ms.
        age_ms: u64,
        /// Since the flow's last segment, ms.
        idle_ms: u64,
    },
}

/// What a node tells of itself that is not in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its clock, microseconds since the epoch (1970).
    pub clock_us: u64,
    /// `net.ipv4.tcp_rmem`, bytes; empty where it cannot be read.
    pub tcp_rmem: Vec<u64>,
    /// Numbers of its link keys; the first one signs.
    pub keys: Vec<u8>,
    /// It lost more members at once than it still sees.
    pub minority: bool,
    /// Messages of the membership that it refused, for each reason that occurred.
    pub refused: Vec<Refusals>,
    /// Claims that a VIP is elsewhere than at the cluster's address.
    pub vip_conflicts: Count,
    /// Frames that came from the cluster's address.
    pub cluster_mac_sources: Count,
}

/// How often something occurred since the node's start, and when last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So often.
    pub count: u64,
    /// The last one's age in seconds; `None` where there was none.
    pub age_s: Option<u32>,
}

/// Refused messages of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Index in [`Refused::ALL`].
    reason: u8,
    /// How many, and the last one.
    pub times: Count,
    /// Where the last one came from.
    pub from: IpAddr,
}

impl Refusals {
    /// Of `why`.
    ///
    /// # Panics
    /// Never: every reason is one of all.
    #[must_use]
    pub fn new(why: Refused, times: Count, from: IpAddr) -> Self {
        let reason = Refused::ALL.iter().position(|r| *r == why);
        let reason = reason.expect("one of all") as u8;
        Self {
            reason,
            times,
            from,
        }
    }

    /// Why; `None` for a reason that a later version has.
    #[must_use]
    pub fn why(&self) -> Option<Refused> {
        Refused::ALL.get(usize::from(self.reason)).copied()
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let bytes = postcard::to_extend(value, vec![VERSION]).unwrap_or_default();
    debug_assert!((1..=Membership::ERRAND_MAX).contains(&bytes.len()));
    bytes
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let rest = bytes.strip_prefix(&[VERSION])?;
    let (value, left) = postcard::take_from_bytes(rest).ok()?;
    left.is_empty().then_some(value)
}

impl Question {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads one; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

impl Answer {
    /// Its bytes, at most [`Membership::ERRAND_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads one; anything else is [`Answer::Unclear`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        decode(bytes).unwrap_or(Self::Unclear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_and_fit() {
        let six: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
            .parse()
            .unwrap();
        for question in [
            Question::Facts,
            Question::Flow {
                client: six,
                vip: six,
            },
        ] {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Some(question));
            assert_eq!(Question::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Question::decode(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(Question::decode(&[&[2], &bytes[1..]].concat()), None);
        }
        let most = Count {
            count: u64::MAX,
            age_s: Some(u32::MAX),
        };
        let refused = Refused::ALL.map(|why| Refusals::new(why, most, six.ip()));
        let back = refused.map(|r| r.why());
        assert_eq!(back, Refused::ALL.map(Some));
        let facts = Answer::Facts(Facts {
            clock_us: u64::MAX,
            tcp_rmem: vec![u64::MAX; 3],
            keys: vec![255; 2],
            minority: true,
            refused: refused.into(),
            vip_conflicts: most,
            cluster_mac_sources: most,
        });
        let entry = Entry::Fcb {
            state: "half_open".into(),
            from: Some(u16::MAX),
            to: Some(u16::MAX),
            age_ms: u64::MAX,
            idle_ms: u64::MAX,
        };
        let flow = Answer::Flow(Some(FlowReport {
            epoch: u64::MAX,
            bucket: u32::MAX,
            owner: u16::MAX,
            entry,
        }));
        for answer in [facts, flow, Answer::Flow(None)] {
            let bytes = answer.encode();
            assert!(bytes.len() <= Membership::ERRAND_MAX);
            assert_eq!(Answer::decode(&bytes), answer);
        }
        assert_eq!(Answer::decode(b""), Answer::Unclear);
        assert_eq!(Answer::decode(&[9; 20]), Answer::Unclear);
    }
}
