//! A client with smoltcp's TCP.

use super::Outcome;
use crate::plan::ClientPlan;
use crate::seg::Seg;
use crate::stack::tcb::Tcb;
use smoltcp::socket::tcp::State;
use std::net::SocketAddr;

/// The client.
pub struct Smol {
    /// Its socket.
    pub tcb: Tcb,
    stream: Vec<u8>,
    written: usize,
    chunks: Vec<(usize, u64)>,
    next_chunk: usize,
    room: usize,
    due: u64,
    read_at: u64,
    half_close: bool,
    closed: bool,
    odd_syn: bool,
    first_out: Vec<Seg>,
}

impl Smol {
    pub fn new(
        plan: &ClientPlan,
        local: SocketAddr,
        vip: SocketAddr,
        stream: Vec<u8>,
        now: u64,
    ) -> Self {
        let mut tcb = Tcb::connect(plan.setup, local, vip, now);
        let first_out = tcb.poll(now);
        Self {
            tcb,
            stream,
            written: 0,
            chunks: plan.chunks.clone(),
            next_chunk: 0,
            room: 0,
            due: 0,
            read_at: 0,
            half_close: plan.half_close,
            closed: false,
            odd_syn: plan.odd_syn,
            first_out,
        }
    }

    pub fn input(&mut self, s: &Seg, now: u64) -> Vec<Seg> {
        let out = self.tcb.input(s, now);
        self.dress(out)
    }

    /// Odd things on a SYN: ECN setup bits and a Fast Open cookie request.
    fn dress(&self, mut out: Vec<Seg>) -> Vec<Seg> {
        if self.odd_syn {
            for s in &mut out {
                if s.flags == crate::seg::SYN {
                    s.flags |= crate::seg::ECE | crate::seg::CWR;
                    s.opts.raw.extend_from_slice(&[34, 2]);
                }
            }
        }
        out
    }

    pub fn drive(
        &mut self,
        plan: &ClientPlan,
        got: usize,
        whole: usize,
        now: u64,
    ) -> (Vec<Seg>, Vec<u8>) {
        let mut out = std::mem::take(&mut self.first_out);
        let mut bytes = Vec::new();
        let (most, pause) = plan.slow_reader;
        if most == 0 {
            bytes = self.tcb.read(usize::MAX);
        } else if now >= self.read_at {
            bytes = self.tcb.read(most);
            self.read_at = now + pause;
        }
        if self.tcb.state() == State::Established || self.tcb.state() == State::CloseWait {
            self.write(now);
            let have = got + bytes.len();
            let all_sent = self.written == self.stream.len();
            let theirs = self.tcb.peer_closed() && self.tcb.socket().recv_queue() == 0;
            if !self.closed && all_sent && (self.half_close || have >= whole || theirs) {
                self.tcb.socket().close();
                self.closed = true;
            }
        }
        out.extend(self.tcb.poll(now));
        (self.dress(out), bytes)
    }

    /// Writes what the segmentation of the plan allows by now.
    fn write(&mut self, now: u64) {
        loop {
            if self.room == 0 {
                match self.chunks.get(self.next_chunk) {
                    Some(&(len, wait)) => {
                        if self.due == 0 {
                            self.due = now + wait;
                        }
                        if now < self.due {
                            return;
                        }
                        self.room = len;
                        self.next_chunk += 1;
                        self.due = 0;
                    }
                    None => self.room = usize::MAX,
                }
            }
            let end = self
                .stream
                .len()
                .min(self.written.saturating_add(self.room));
            if self.written == end {
                return;
            }
            let n = self.tcb.write(&self.stream[self.written..end]);
            self.written += n;
            self.room = self.room.saturating_sub(n);
            if n == 0 {
                return;
            }
            // Each piece is a segment of its own.
            if self.next_chunk < self.chunks.len() {
                return;
            }
        }
    }

    pub fn at(&mut self, now: u64) -> Option<u64> {
        let mut at = self.tcb.poll_at(now);
        let mut earlier = |t: u64| at = Some(at.map_or(t, |a| a.min(t)));
        if self.tcb.state() == State::Established && self.written < self.stream.len() {
            if self.due > 0 {
                earlier(self.due);
            } else if self.room == 0 && self.next_chunk < self.chunks.len() {
                earlier(now + 1);
            }
        }
        if self.read_at > now && self.tcb.socket().recv_queue() > 0 {
            earlier(self.read_at);
        }
        at
    }

    pub fn outcome(&mut self, got: usize, whole: usize) -> Outcome {
        if self.tcb.was_reset {
            return if got >= whole {
                Outcome::Done
            } else {
                Outcome::Reset
            };
        }
        let over = matches!(self.tcb.state(), State::Closed | State::TimeWait);
        if over && got >= whole && self.written == self.stream.len() {
            Outcome::Done
        } else if over {
            Outcome::Cut
        } else {
            Outcome::Running
        }
    }
}
