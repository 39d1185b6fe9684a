//! The last handovers, for the admin API.

use serde::Serialize;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// Most records kept.
pub const CAPACITY: usize = 1000;

/// How a handover ended; each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The destination has the connection.
    Accepted,
    /// The destination said no.
    Refused,
    /// No answer in time; the destination confirmed that it did nothing.
    Aborted,
    /// Nobody can tell; the client is reset at the deadline.
    Unknown,
    /// This connection cannot be handed over.
    NotEligible,
    /// The destination is dead or no member.
    Unreachable,
    /// A limit is reached, or the connection is in a handover already.
    Busy,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Refused,
        Self::Aborted,
        Self::Unknown,
        Self::NotEligible,
        Self::Unreachable,
        Self::Busy,
    ];

    /// The value of the `result` label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
            Self::NotEligible => "not_eligible",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
        }
    }
}

/// When each step was done, microseconds from the receipt of the request;
/// `None` for a step that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepTimes {
    /// The worker holds the client's segments.
    pub frozen_us: Option<u64>,
    /// The socket has been drained and checked.
    pub drained_us: Option<u64>,
    /// The splice SYN was queued.
    pub spliced_us: Option<u64>,
    /// The accept arrived.
    pub accepted_us: Option<u64>,
    /// The end mark was acknowledged.
    pub buried_us: Option<u64>,
}

impl StepTimes {
    /// The steps by name, in order.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("freeze", self.frozen_us),
            ("drain", self.drained_us),
            ("splice", self.spliced_us),
            ("accept", self.accepted_us),
            ("bury", self.buried_us),
        ]
    }
}

/// One handover that this node was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Seconds since the epoch when it was asked for.
    pub time: f64,
    /// The client.
    pub client: SocketAddr,
    /// Name of the service, where one was recognised.
    pub service: Option<String>,
    /// This node's id.
    pub source: u16,
    /// The destination's id, where the address is a member's.
    pub destination: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// `fast-open`, `handshake`, `paper`, or `unknown` when the destination's word
    /// on it was lost; `None` unless accepted.
    pub replay: Option<&'static str>,
    /// Request bytes, 0 when it failed before they were known.
    pub bytes: usize,
    /// From the receipt of the request to the answer.
    pub duration_us: u64,
    /// When each step was done.
    pub steps: StepTimes,
    /// Why it failed; empty after success.
    pub reason: String,
}

/// The last [`CAPACITY`] records.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Record>>);

impl History {
    /// Adds a record; the oldest one makes room.
    pub fn push(&self, record: Record) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == CAPACITY {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// Up to `limit` records, the newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Record> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().rev().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> Record {
        Record {
            time: 1.5,
            client: ([10, 0, 0, 1], 1234).into(),
            service: Some("web".into()),
            source: 1,
            destination: Some(2),
            outcome: Outcome::NotEligible,
            replay: None,
            bytes,
            duration_us: 5,
            steps: StepTimes::default(),
            reason: "x".into(),
        }
    }

    #[test]
    fn keeps_the_newest() {
        let history = History::default();
        for n in 0..CAPACITY + 2 {
            history.push(record(n));
        }
        let newest = history.newest(3);
        let bytes: Vec<usize> = newest.iter().map(|r| r.bytes).collect();
        assert_eq!(bytes, [CAPACITY + 1, CAPACITY, CAPACITY - 1]);
        assert_eq!(history.newest(usize::MAX).len(), CAPACITY);
    }

    #[test]
    fn json_and_metrics_use_the_same_words() {
        for outcome in Outcome::ALL {
            let json = serde_json::to_value(outcome).unwrap();
            assert_eq!(json, outcome.name());
        }
        let json = serde_json::to_value(record(1)).unwrap();
        assert_eq!(json["client"], "10.0.0.1:1234");
        assert!(json["replay"].is_null());
        let client = "[fd77::9]:1234".parse().unwrap();
        let json = serde_json::to_value(Record {
            client,
            ..record(1)
        })
        .unwrap();
        assert_eq!(json["client"], "[fd77::9]:1234");
    }
}
