//! Impairment of the lab's cables, for kernels that have no netem: a relay in user
//! space between two interfaces that delays, loses, duplicates, reorders and damages
//! frames by seed, and counts what the TCP connections on the cable did about it
//! (`docs/adr/0016-own-impairment.md`).
//!
//! [`model`] decides, [`flow`] counts, [`relay`] moves frames; [`rig`] puts the program
//! `impair` between the lab's interfaces and talks to it by [`Command`] and [`Reply`],
//! one JSON value per line.

pub mod flow;
pub mod frame;
pub mod model;
pub mod relay;
pub mod rig;

use serde::{Deserialize, Serialize};

/// What happens to frames of one direction of a cable. Probabilities are 0 to 1. The
/// words are netem's, and so is their meaning but where a field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Impairment {
    /// Delay of every frame, microseconds.
    pub delay_us: u64,
    /// The delay is uniform in `delay_us` -+ this, drawn for each frame alone, so that
    /// frames overtake each other as they do in netem.
    pub jitter_us: u64,
    /// Each frame is lost with this probability (Bernoulli).
    pub loss: f64,
    /// Loss in bursts, beside `loss`.
    pub burst: Option<Burst>,
    /// A frame is sent at once, while the others wait for their delay.
    pub reorder: f64,
    /// A frame is sent twice, the copy with a delay of its own. A frame that is
    /// duplicated and lost is sent once.
    pub duplicate: f64,
    /// One bit is flipped, anywhere behind the IP header (netem's may be in the headers
    /// too).
    pub corrupt: f64,
    /// A fault at a chosen place instead of a random one.
    pub script: Option<Script>,
}

/// The Gilbert-Elliott chain: a good and a bad state, and in each a probability of loss.
/// Unlike netem's it returns to the good state after [`Burst::QUIET_US`] without a frame:
/// netem's waits for frames to leave the bad state, and swallows the retransmissions of a
/// silent sender, whose pauses double, for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Burst {
    /// From good to bad, per frame (netem: p).
    pub to_bad: f64,
    /// From bad to good, per frame (netem: r).
    pub to_good: f64,
    /// Loss in the bad state (netem: 1-h).
    pub bad_loss: f64,
    /// Loss in the good state (netem: 1-k).
    pub good_loss: f64,
}

impl Burst {
    /// A burst does not outlast a pause like this, microseconds: half of the shortest
    /// retransmission time-out.
    pub const QUIET_US: u64 = 100_000;
}

/// A fault at a chosen place of every TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// Every frame with payload is lost until the sender sends bytes again: its first
    /// flight is lost whole.
    LoseFlight,
    /// The second frame with payload is sent `by_us` earlier than the others, so that it
    /// overtakes the first.
    SecondFirst {
        /// Microseconds, at most the delay.
        by_us: u64,
    },
}

/// Both directions of a cable. `out` is from the first interface of a cable to the
/// second: from the client or node into the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cable {
    /// From the client or node.
    pub out: Impairment,
    /// To the client or node.
    pub back: Impairment,
}

impl Cable {
    /// The same in both directions.
    #[must_use]
    pub fn both(impairment: &Impairment) -> Self {
        Self {
            out: impairment.clone(),
            back: impairment.clone(),
        }
    }
}

/// What the relay is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// From now on: a seed, and cables by name. Those that are not named carry frames
    /// as they come. Counts and random sequences start anew.
    Set {
        /// Where the random sequences start.
        seed: u64,
        /// By the names of the command line.
        cables: std::collections::BTreeMap<String, Cable>,
    },
    /// Tell the counts of a cable.
    Report {
        /// Its name.
        cable: String,
    },
}

/// What the relay answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// What was wrong with the command; empty if nothing.
    pub error: String,
    /// TCP connections seen on the cable since it was set.
    pub flows: Vec<flow::Report>,
    /// Frames that the relay could not keep or send; 0, or its results are void.
    pub overflow: u64,
    /// How much later than it was due a frame was sent, microseconds: the median.
    pub late_p50_us: u64,
    /// The 99th percentile.
    pub late_p99_us: u64,
    /// The largest.
    pub late_max_us: u64,
}
