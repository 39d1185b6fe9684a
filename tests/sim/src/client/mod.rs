//! Clients: smoltcp's, and one that plays a script of raw segments.

mod raw;
mod smol;

use crate::plan::ClientPlan;
use crate::seg::Seg;
use crate::talk::Request;
use raw::Raw;
use smol::Smol;
use std::net::SocketAddr;

/// How a connection ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet.
    Running,
    /// It has every byte of its answers, and both sides closed or need not.
    Done,
    /// It got a RST.
    Reset,
    /// The server closed before the answers were complete.
    Cut,
    /// It reset the connection itself, as its script says.
    Left,
}

enum Engine {
    Smol(Box<Smol>),
    Raw(Box<Raw>),
}

/// A client with one connection.
pub struct Client {
    /// What it does.
    pub plan: ClientPlan,
    /// Its address.
    pub local: SocketAddr,
    /// Bytes of answers so far; all were right.
    pub got: usize,
    /// Its end.
    pub outcome: Outcome,
    /// A byte of the answer was wrong.
    pub wrong: Option<String>,
    /// Its requests.
    pub requests: Vec<Request>,
    expected: Vec<u8>,
    engine: Engine,
}

impl Client {
    /// A client that connects now. `id` makes its requests' names unique.
    pub fn new(plan: ClientPlan, local: SocketAddr, vip: SocketAddr, id: u64, now: u64) -> Self {
        let requests: Vec<Request> = (plan.requests.iter().enumerate())
            .map(|(i, &(len, answer))| Request {
                id: id << 16 | i as u64,
                len: len.max(crate::talk::HEAD),
                answer,
            })
            .collect();
        let stream: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
        let expected = requests.iter().flat_map(Request::answer).collect();
        let engine = if plan.script.is_some() {
            Engine::Raw(Box::new(Raw::new(&plan, local, vip, stream)))
        } else {
            Engine::Smol(Box::new(Smol::new(&plan, local, vip, stream, now)))
        };
        Self {
            plan,
            local,
            got: 0,
            outcome: Outcome::Running,
            wrong: None,
            requests,
            expected,
            engine,
        }
    }

    /// A segment from the wire; gives what the client sends.
    pub fn input(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        let mut out = match &mut self.engine {
            Engine::Smol(c) => c.input(s, now),
            Engine::Raw(c) => c.input(s, now),
        };
        out.extend(self.drive(now));
        out
    }

    /// Reads, writes, closes and lets timers run; gives what the client sends.
    pub fn drive(&mut self, now: u64) -> Vec<Seg> {
        let whole = self.expected.len();
        let (out, bytes) = match &mut self.engine {
            Engine::Smol(c) => c.drive(&self.plan, self.got, whole, now),
            Engine::Raw(c) => c.drive(self.got, whole, now),
        };
        for b in bytes {
            if self.wrong.is_none() && self.expected.get(self.got) != Some(&b) {
                self.wrong = Some(format!("byte {} of the answers is {b:#04x}", self.got));
            }
            self.got += 1;
        }
        if self.outcome == Outcome::Running {
            self.outcome = match &mut self.engine {
                Engine::Smol(c) => c.outcome(self.got, whole),
                Engine::Raw(c) => c.outcome(self.got, whole),
            };
        }
        out
    }

    /// A scripted act.
    pub fn act(&mut self, act: crate::plan::Act, now: u64) -> Vec<Seg> {
        match &mut self.engine {
            Engine::Smol(_) => Vec::new(),
            Engine::Raw(c) => c.act(act, now),
        }
    }

    /// When it wants to run again.
    pub fn at(&mut self, now: u64) -> Option<u64> {
        match &mut self.engine {
            Engine::Smol(c) => c.at(now),
            Engine::Raw(c) => c.at(),
        }
    }

    /// The connection is established.
    pub fn established(&mut self) -> bool {
        match &mut self.engine {
            Engine::Smol(c) => c.tcb.state() != smoltcp::socket::tcp::State::SynSent,
            Engine::Raw(c) => c.established(),
        }
    }

    /// Number behind everything that it has sent, and its first number.
    pub fn numbers(&self) -> (u32, u32) {
        match &self.engine {
            Engine::Smol(c) => (c.tcb.setup.isn, c.tcb.snd_nxt),
            Engine::Raw(c) => c.numbers(),
        }
    }

    /// What was wrong with segments that it got, since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        match &mut self.engine {
            Engine::Smol(c) => c.tcb.complaints.drain(..).map(|c| c.0).collect(),
            Engine::Raw(c) => std::mem::take(&mut c.complaints),
        }
    }

    /// Segments of the server that PAWS rejected.
    pub fn paws(&self) -> u32 {
        match &self.engine {
            Engine::Smol(c) => c.tcb.paws,
            Engine::Raw(_) => 0,
        }
    }

    /// The smoltcp state, if it has one.
    pub fn state(&mut self) -> Option<smoltcp::socket::tcp::State> {
        match &mut self.engine {
            Engine::Smol(c) => Some(c.tcb.state()),
            Engine::Raw(_) => None,
        }
    }

    /// Bytes that all answers have.
    pub fn whole(&self) -> usize {
        self.expected.len()
    }
}
