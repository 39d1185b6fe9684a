//! Complete handovers in memory: two nodes' shards, and their stacks played here. One
//! thread does all of it, source, destination and both stacks' parts.

use crate::counted::counted;
use crate::flows;
use crate::node::{self, Spec};
use crate::report::Entry;
use crate::rounds::{Plan, median};
use anyhow::{Context, Result, bail, ensure};
use dts_core::command::{Command, Event};
use dts_core::frame::{Output, Pool, Port};
use dts_core::key::{Addr, FlowKey, HashKey};
use dts_core::shard::{Shard, Sizes};
use dts_core::time::{Instant, Span};
use dts_core::view::View;
use dts_core::wire::build::Tcp;
use dts_core::wire::options::Build;
use dts_core::wire::tcp::{ACK, PSH, SYN, Segment};
use dts_core::wire::{self, L3};
use std::time;

/// Published for an L4 balancer that completes TCP handshakes itself (SYN proxy), in
/// connections per second and core: the line to beat.
const LINE: f64 = 200_000.0;
/// Handovers of one round.
const BATCH: u32 = 16_384;
/// Time that passes between two handovers, as the nodes see it.
const BETWEEN: Span = Span::millis(1);
const REQUEST: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const PROXY_PORT: u16 = 8001;

/// Frames that left, by port, in the order of their leaving.
#[derive(Default)]
struct Sent(Vec<(Port, Vec<u8>)>);

impl Pool for Sent {
    type Frame = Vec<u8>;
    fn frame(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}

impl Output for Sent {
    fn send(&mut self, port: Port, frame: Vec<u8>) {
        self.0.push((port, frame));
    }
    fn hand_off(&mut self, _: usize, _: Port, _: Vec<u8>) {
        unreachable!("there is one worker")
    }
}

struct Side {
    view: View,
    shard: Shard,
    out: Sent,
    /// Its way with frames goes through [`counted`].
    counted: bool,
}

impl Side {
    fn new(view: View) -> Self {
        let sizes = Sizes {
            worker: 0,
            workers: 1,
            flows: 2 * BATCH as usize,
            hold: 64 << 20,
        };
        let shard = Shard::new(sizes, HashKey::new(*b"key of one node."), &view);
        Self {
            view,
            shard,
            out: Sent::default(),
            counted: false,
        }
    }

    fn rx(&mut self, port: Port, frame: Vec<u8>, now: Instant) {
        let Side {
            view, shard, out, ..
        } = self;
        if self.counted {
            counted(|| shard.ingress(view, port, frame, now, out));
        } else {
            shard.ingress(view, port, frame, now, out);
        }
    }

    /// Takes the only frame that left, and that by `port`.
    fn one(&mut self, port: Port) -> Result<Vec<u8>> {
        ensure!(self.out.0.len() == 1, "{} frames left", self.out.0.len());
        match self.out.0.pop() {
            Some((at, frame)) if at == port => Ok(frame),
            _ => bail!("a frame left by another port than {}", port.name()),
        }
    }
}

/// One connection's numbers.
#[derive(Clone, Copy)]
struct Flow {
    key: FlowKey,
    c: u32,
    s: u32,
    l: u32,
}

impl Flow {
    fn new(n: u32) -> Self {
        Self {
            key: flows::flow(n),
            c: n.wrapping_mul(0x9e37_79b1),
            s: n ^ 0x1234_5678,
            l: n.rotate_left(9),
        }
    }

    fn client(&self, seq: u32, ack: u32, flags: u8, opts: Build, payload: &[u8]) -> Vec<u8> {
        Tcp {
            eth_dst: flows::CLUSTER_MAC,
            eth_src: flows::ROUTER,
            src: self.key.client,
            dst: self.key.vip,
            sport: self.key.client_port,
            dport: self.key.port,
            seq,
            ack,
            flags,
            window: 502,
            opts,
            payload,
        }
        .frame()
    }

    fn host(&self, port: u16, seq: u32, ack: u32, flags: u8, opts: Build) -> Vec<u8> {
        Tcp {
            eth_dst: flows::ROUTER,
            eth_src: flows::CLUSTER_MAC,
            src: self.key.vip,
            dst: self.key.client,
            sport: port,
            dport: self.key.client_port,
            seq,
            ack,
            flags,
            window: 65_160,
            opts,
            payload: &[],
        }
        .frame()
    }

    fn k(&self) -> u32 {
        self.c.wrapping_add(1 + REQUEST.len() as u32)
    }
}

fn ts(val: u32, ecr: u32) -> Build {
    Build {
        timestamps: Some((val, ecr)),
        ..Build::default()
    }
}

fn syn_opts(val: u32, ecr: u32) -> Build {
    Build {
        mss: Some(1460),
        sack_permitted: true,
        wscale: Some(7),
        ..ts(val, ecr)
    }
}

/// Two nodes and the time.
struct Pair {
    a: Side,
    b: Side,
    now: Instant,
    ticket: u64,
}

impl Pair {
    fn new() -> Result<Self> {
        let spec = Spec::plain(0, 0);
        let mac = |kind: u8, node: u8| [2, 0, 0, 0, kind, node];
        let mut views = Vec::new();
        for id in 1..=2u8 {
            let mut v = node::view(&spec, [mac(0, id), mac(1, id)])?;
            v.node = id.into();
            v.incarnation = u64::from(id);
            v.link = Addr::v4([10, 77, 1, id]);
            for m in &mut v.members {
                let id = m.id as u8;
                m.known = Some((mac(1, id), u64::from(id)));
                m.alive = true;
            }
            v.params.half_open_max = 2 * BATCH as usize;
            views.push(v);
        }
        let (b, a) = (views.pop(), views.pop());
        Ok(Self {
            a: Side::new(a.context("two views")?),
            b: Side::new(b.context("two views")?),
            now: Instant(1_000_000_000),
            ticket: 0,
        })
    }

    /// Flows that `a` owns.
    fn flows(&self, count: usize) -> Vec<Flow> {
        let owned = flows::owned(&self.a.view, 0, true);
        owned.take(count).map(Flow::new).collect()
    }

    /// The client connects to the proxy at `a` and sends its request.
    fn connect(&mut self, f: &Flow) -> Result<()> {
        let (c1, s1) = (f.c.wrapping_add(1), f.s.wrapping_add(1));
        self.a.rx(
            Port::Wire,
            f.client(f.c, 0, SYN, syn_opts(100, 0), b""),
            self.now,
        );
        self.a.one(Port::WireHost)?;
        let synack = f.host(PROXY_PORT, f.s, c1, SYN | ACK, syn_opts(5000, 100));
        self.a.rx(Port::WireHost, synack, self.now);
        self.a.one(Port::Wire)?;
        self.now = self.now + Span::micros(200);
        self.a.rx(
            Port::Wire,
            f.client(c1, s1, ACK, ts(120, 5000), b""),
            self.now,
        );
        self.a.one(Port::WireHost)?;
        let request = f.client(c1, s1, ACK | PSH, ts(130, 5000), REQUEST);
        self.a.rx(Port::Wire, request, self.now);
        self.a.one(Port::WireHost)?;
        let ack = f.host(PROXY_PORT, s1, f.k(), ACK, ts(5010, 130));
        self.a.rx(Port::WireHost, ack, self.now);
        self.a.one(Port::Wire).map(|_| ())
    }

    /// Carries what the nodes send to each other until both are silent; other frames
    /// are given to `seen`.
    fn link(&mut self, seen: &mut impl FnMut(bool, Port, &[u8])) {
        loop {
            let (x, y) = (
                std::mem::take(&mut self.a.out.0),
                std::mem::take(&mut self.b.out.0),
            );
            if x.is_empty() && y.is_empty() {
                return;
            }
            for (port, frame) in x {
                match port {
                    Port::Link => self.b.rx(Port::Link, frame, self.now),
                    _ => seen(false, port, &frame),
                }
            }
            for (port, frame) in y {
                match port {
                    Port::Link => self.a.rx(Port::Link, frame, self.now),
                    _ => seen(true, port, &frame),
                }
            }
        }
    }

    /// Hands a connected flow over, from the request of its proxy to the last frame.
    fn hand_over(&mut self, f: &Flow) -> Result<()> {
        self.ticket += 1;
        let ticket = self.ticket;
        let freeze = Command::Freeze {
            ticket,
            client: f.key.client(),
            local: (f.key.vip.ip(), PROXY_PORT).into(),
        };
        let Side {
            view, shard, out, ..
        } = &mut self.a;
        shard.command(view, freeze, self.now, out);
        let frozen = shard.take_events().next();
        ensure!(matches!(frozen, Some(Event::Frozen { .. })), "{frozen:?}");
        let splice = Command::Splice {
            ticket,
            dest: (self.b.view.link.ip(), flows::APP_PORT).into(),
            request: REQUEST.to_vec(),
            taken: 0,
            client_fin: false,
        };
        shard.command(view, splice, self.now, out);
        let mut replayed = false;
        self.link(&mut |at_b, port, frame| replayed |= at_b && is_syn(port, frame));
        ensure!(replayed, "no replay");
        // The destination's stack takes the SYN with all of the request.
        let synack = f.host(flows::APP_PORT, f.l, f.k(), SYN | ACK, syn_opts(777, 130));
        self.b.rx(Port::WireHost, synack, self.now);
        self.link(&mut |_, _, _| ());
        let done = self.a.shard.take_events().next();
        ensure!(matches!(done, Some(Event::Done { .. })), "{done:?}");
        Ok(())
    }

    fn tick(&mut self) {
        self.now = self.now + BETWEEN;
        for side in [&mut self.a, &mut self.b] {
            side.shard.tick(&side.view, self.now, &mut side.out);
        }
        self.link(&mut |_, _, _| ());
    }
}

fn is_syn(port: Port, frame: &[u8]) -> bool {
    let Ok(L3::Ip(ip)) = wire::l3(frame) else {
        return false;
    };
    port == Port::WireHost && Segment::parse(frame, &ip).is_ok_and(|s| s.flags == SYN)
}

/// Handovers per second and core, all timers included, and what one takes from the
/// trigger to the last frame.
///
/// # Errors
/// A handover does something else than it should.
pub fn run(plan: &Plan) -> Result<Entry> {
    let mut rounds = Vec::new();
    let mut each = Vec::new();
    for _ in 0..plan.rounds {
        let mut pair = Pair::new()?;
        let flows: Vec<Flow> = pair.flows(BATCH as usize);
        for f in &flows {
            pair.connect(f)?;
        }
        pair.a.shard.take_events().for_each(drop);
        let start = time::Instant::now();
        for f in &flows {
            let begin = time::Instant::now();
            pair.hand_over(f)?;
            each.push(begin.elapsed().as_secs_f64() * 1e6);
            pair.tick();
        }
        let rate = f64::from(BATCH) / start.elapsed().as_secs_f64();
        let done = pair.b.shard.counters.replay_fast_open;
        ensure!(done == u64::from(BATCH), "{done} of {BATCH} were replayed");
        rounds.push((rate, LINE));
    }
    each.sort_by(f64::total_cmp);
    let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize];
    let peer = "published: SYN-proxying L4 balancer, per core";
    Ok(Entry::of(&rounds, "handovers/s", peer)
        .with("goal", 500_000)
        .with("p50_us", median(each.iter().copied()))
        .with("p99_us", at(0.99))
        .with("p999_us", at(0.999))
        .with("goal_p99_us", 4)
        .with("resident", BATCH)
        .with("room", 2 * BATCH)
        .with("active", BATCH)
        .with("lookups", "hits at the source, a miss at the destination"))
}

/// Goes through `count` handovers, of which the destination's way with frames is
/// [`counted`]. Returns how many it replayed.
///
/// # Errors
/// A handover does something else than it should.
pub fn counted_replays(count: usize) -> Result<u64> {
    let mut pair = Pair::new()?;
    let flows = pair.flows(count);
    for f in &flows {
        pair.connect(f)?;
    }
    pair.a.shard.take_events().for_each(drop);
    pair.b.counted = true;
    for f in &flows {
        pair.hand_over(f)?;
        pair.tick();
    }
    let done = pair.b.shard.counters.replay_fast_open;
    ensure!(done == count as u64, "{done} of {count} were replayed");
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handovers_are_complete() {
        let mut pair = Pair::new().unwrap();
        for f in pair.flows(3) {
            pair.connect(&f).unwrap();
            pair.hand_over(&f).unwrap();
            pair.tick();
        }
        assert_eq!(pair.b.shard.flows(), 3);
        assert_eq!(pair.b.shard.counters.replay_fast_open, 3);
    }
}
