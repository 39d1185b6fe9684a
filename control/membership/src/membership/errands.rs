//! What nodes ask of each other: to become something, or to tell something. Whoever asks
//! repeats it until it is done, answered, or too late.

use super::Membership;
use crate::envelope::{self, Kind, Outside};
use crate::record::State;
use crate::types::{Asked, Outcome, Time, Wish, WishError};
use std::time::Duration;

/// Between two messages that ask for the same.
const AGAIN: Duration = Duration::from_millis(50);

/// What another node is asked.
#[derive(Clone, Debug)]
enum Errand {
    Wish(Wish),
    Question(Vec<u8>),
}

/// One that is not over.
#[derive(Clone, Debug)]
struct Pending {
    ticket: u64,
    node: u16,
    errand: Errand,
    next: Time,
    deadline: Time,
}

/// What this node asks, how it ended, and what others ask of it.
#[derive(Debug, Default)]
pub(super) struct Errands {
    pending: Vec<Pending>,
    outcomes: Vec<Outcome>,
    asked: Vec<Asked>,
}

impl Errands {
    /// When something is to be repeated or given up.
    pub(super) fn next(&self) -> impl Iterator<Item = Time> + '_ {
        self.pending.iter().map(|p| p.next.min(p.deadline))
    }

    fn answered(&mut self, node: u16, ticket: u64, answer: &[u8]) {
        let is_it = |p: &Pending| {
            p.ticket == ticket && p.node == node && matches!(p.errand, Errand::Question(_))
        };
        // One that comes again finds nobody who waits.
        if let Some(i) = self.pending.iter().position(is_it) {
            self.pending.swap_remove(i);
            self.outcomes.push((ticket, Ok(answer.to_vec())));
        }
    }
}

/// What a message has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Wish(Wish),
    /// Ticket and question.
    Question(u64, &'a [u8]),
    /// The start of the node that asked, its ticket, and the answer.
    Answer(u64, u64, &'a [u8]),
}

impl<'a> Said<'a> {
    pub(crate) fn decode(kind: Kind, body: &'a [u8]) -> Option<Self> {
        match kind {
            Kind::Wish => Wish::decode(body).map(Self::Wish),
            Kind::Question => {
                let (ticket, question) = number(body)?;
                Some(Self::Question(ticket, question))
            }
            Kind::Answer => {
                let (incarnation, rest) = number(body)?;
                let (ticket, answer) = number(rest)?;
                Some(Self::Answer(incarnation, ticket, answer))
            }
            Kind::Swim | Kind::Records | Kind::Schedule => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

impl Membership {
    /// Longest question or answer, bytes.
    pub const ERRAND_MAX: usize = envelope::LEN_MAX - envelope::OVERHEAD - 16;

    /// Asks `node` to become what `wish` says; the outcome comes by
    /// [`Membership::take_outcomes`] under `ticket`, within `patience`.
    pub fn wish(&mut self, ticket: u64, node: u16, wish: Wish, patience: Duration, now: Time) {
        if node == self.own {
            self.fulfil(wish, now);
            self.errands.outcomes.push((ticket, Ok(Vec::new())));
            return;
        }
        self.begin(ticket, node, Errand::Wish(wish), patience, now);
    }

    /// Asks another node something that changes nothing there. The answer is the outcome, as
    /// for [`Membership::wish`]. A question may reach the node several times.
    pub fn ask(
        &mut self,
        ticket: u64,
        node: u16,
        question: Vec<u8>,
        patience: Duration,
        now: Time,
    ) {
        debug_assert!(question.len() <= Self::ERRAND_MAX);
        self.begin(ticket, node, Errand::Question(question), patience, now);
    }

    fn begin(&mut self, ticket: u64, node: u16, errand: Errand, patience: Duration, now: Time) {
        let there = self.status.get(&node).map(|s| s.liveness.is_there());
        let refused = match there {
            None => WishError::NoSuchNode,
            Some(false) => WishError::NotThere,
            Some(true) => {
                self.errands.pending.push(Pending {
                    ticket,
                    node,
                    errand,
                    next: now,
                    deadline: now + patience,
                });
                return self.repeat_errands(now);
            }
        };
        self.errands.outcomes.push((ticket, Err(refused)));
    }

    /// What was asked of others and has ended: the answer, which is empty for a wish, or what
    /// went wrong.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.errands.outcomes)
    }

    /// What others ask of this node; to be answered by [`Membership::answer`].
    pub fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.errands.asked)
    }

    /// Answers a question, with at most [`Membership::ERRAND_MAX`] bytes; a longer answer is
    /// the caller's mistake and is not sent.
    pub fn answer(&mut self, asked: &Asked, answer: &[u8]) {
        debug_assert!(answer.len() <= Self::ERRAND_MAX);
        if self.left || answer.len() > Self::ERRAND_MAX {
            return;
        }
        let mut body = Vec::with_capacity(16 + answer.len());
        body.extend_from_slice(&asked.incarnation.to_be_bytes());
        body.extend_from_slice(&asked.ticket.to_be_bytes());
        body.extend_from_slice(answer);
        self.send(asked.node, Kind::Answer, &body);
    }

    pub(super) fn heard_errand(&mut self, said: Said<'_>, from: &Outside, now: Time) {
        match said {
            Said::Wish(wish) => self.fulfil(wish, now),
            Said::Question(ticket, question) if !self.left => self.errands.asked.push(Asked {
                node: from.sender,
                incarnation: from.incarnation,
                ticket,
                question: question.to_vec(),
            }),
            // To an earlier start of this node, whose tickets were others.
            Said::Answer(incarnation, ..) if incarnation != self.incarnation => {}
            Said::Answer(_, ticket, answer) => self.errands.answered(from.sender, ticket, answer),
            Said::Question(..) => {}
        }
    }

    fn fulfil(&mut self, wish: Wish, now: Time) {
        // Whoever has said goodbye stays away.
        if self.own_record().state == State::Left {
            return;
        }
        self.set_own(now, |r| wish.apply(r));
    }

    pub(super) fn repeat_errands(&mut self, now: Time) {
        let mut due = Vec::new();
        let (held, status) = (&self.held, &self.status);
        let Errands {
            pending, outcomes, ..
        } = &mut self.errands;
        pending.retain_mut(|p| {
            let record = held.get(&p.node).map(|h| h.record);
            if let Errand::Wish(wish) = p.errand
                && record.is_some_and(|r| wish.is_fulfilled(&r))
            {
                outcomes.push((p.ticket, Ok(Vec::new())));
                return false;
            }
            if !status[&p.node].liveness.is_there() {
                outcomes.push((p.ticket, Err(WishError::NotThere)));
                return false;
            }
            if now >= p.deadline {
                outcomes.push((p.ticket, Err(WishError::NoAnswer)));
                return false;
            }
            if now >= p.next {
                p.next = now + AGAIN;
                due.push((p.node, p.ticket, p.errand.clone()));
            }
            true
        });
        for (node, ticket, errand) in due {
            match errand {
                Errand::Wish(wish) => self.send(node, Kind::Wish, &wish.encode()),
                Errand::Question(question) => {
                    let body = [&ticket.to_be_bytes()[..], &question].concat();
                    self.send(node, Kind::Question, &body);
                }
            }
        }
    }
}
