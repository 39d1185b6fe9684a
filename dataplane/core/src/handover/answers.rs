//! What a destination said about a handover, remembered longer than the last
//! retransmission and the link's lifetime, so that a late message is answered
//! as the first one was and no request is executed twice.

use crate::mutation::{Mutation, broken};
use crate::time::{Instant, Span};
use dts_proto::block::{FlowId, Reason, Replay};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// An outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted: sequence number and acknowledgement of the accept.
    Accepted {
        /// s_base.
        seq: u32,
        /// Behind the last request byte.
        ack: u32,
        /// How it was replayed.
        replay: Replay,
    },
    /// Refused.
    Refused(Reason),
    /// Aborted, perhaps before it was ever seen.
    Aborted,
    /// The stack has some of the request and went silent: nobody may repeat it, and
    /// nobody can say what became of it. Not answered at all.
    Undecided,
}

/// How long an answer is kept.
pub const KEPT: Span = Span::secs(10);
/// Most answers.
const MOST: usize = 1 << 17;

/// The memory of outcomes.
#[derive(Debug, Default)]
pub struct Answers {
    map: HashMap<FlowId, (Answer, Instant)>,
    order: VecDeque<(Instant, FlowId)>,
}

impl Answers {
    /// What was said about `flow`.
    pub fn get(&self, flow: &FlowId) -> Option<Answer> {
        if broken(Mutation::AnswersForgotten) {
            return None;
        }
        self.map.get(flow).map(|a| a.0)
    }

    /// Remembers an outcome; the first one stands.
    pub fn put(&mut self, flow: FlowId, answer: Answer, now: Instant) {
        if self.map.len() >= MOST
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
        self.map.entry(flow).or_insert((answer, now));
        self.order.push_back((now, flow));
    }

    /// Forgets what is old.
    pub fn purge(&mut self, now: Instant) {
        while let Some((t, flow)) = self.order.front().copied() {
            if now - t < KEPT {
                break;
            }
            self.order.pop_front();
            self.map.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_cap_the_oldest_goes() {
        let id = |number| FlowId {
            client: dts_proto::block::v4([10, 0, 0, 1], 1),
            vip: dts_proto::block::v4([10, 0, 0, 2], 80),
            c_isn: 0,
            s_isn: 0,
            source: 1,
            source_incarnation: 1,
            number,
        };
        let mut a = Answers::default();
        for i in 0..=MOST as u32 {
            a.put(id(i), Answer::Aborted, Instant(0));
        }
        assert_eq!((a.get(&id(0)), a.map.len()), (None, MOST));
        assert_eq!(a.get(&id(1)), Some(Answer::Aborted));
        assert_eq!(a.get(&id(MOST as u32)), Some(Answer::Aborted));
        a.purge(Instant(0) + KEPT);
        assert!(a.map.is_empty() && a.order.is_empty());
    }
}
