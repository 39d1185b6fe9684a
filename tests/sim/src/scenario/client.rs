//! What clients do while a handover is under way.

use super::handover::pieces;
use crate::plan::{Act, Fault, MS, Plan, Step, US, When};
use crate::rng::Rng;

fn when(r: &mut Rng, steps: &[Step], most: u64) -> When {
    When {
        step: r.pick(steps),
        after: r.below(most + 1),
    }
}

const DURING: [Step; 8] = [
    Step::Asked,
    Step::Frozen,
    Step::Drained,
    Step::Splice,
    Step::Replay,
    Step::Taken,
    Step::Accept,
    Step::Buried,
];

pub fn half_close(p: &mut Plan, r: &mut Rng) {
    let n = p.request_bytes(0);
    let c = &mut p.clients[0];
    c.half_close = true;
    if r.permille(500) {
        p.ask_at = r.range(1, n as u64) as usize;
        c.chunks = vec![(p.ask_at, 0), (n, r.below(4 * MS))];
    } else if r.permille(500) {
        c.chunks = pieces(r, n, 3, 2 * MS);
    }
}

pub fn slow(p: &mut Plan, r: &mut Rng) {
    let c = &mut p.clients[0];
    c.setup.rx = r.range(2000, 9000) as usize;
    c.setup.shift = Some(r.range(0, 4) as u8);
    c.requests = vec![(r.range(24, 600) as usize, r.range(10_000, 40_000) as usize)];
    c.slow_reader = (r.range(500, 4000) as usize, r.range(1, 40) * MS);
    p.ask_at = c.requests[0].0;
    p.think = r.pick(&[0, 60 * MS, 400 * MS]);
    p.expect.clean = false;
    p.app_stack.keepalive_ms = r.pick(&[0, 30]);
}

fn scripted(p: &mut Plan, r: &mut Rng, script: Vec<(When, Act)>) {
    let c = &mut p.clients[0];
    c.delay = r.pick(&[50 * US, 500 * US, 5 * MS]);
    if p.host_delay > MS {
        c.delay = 50 * US;
    }
    c.setup.rx = 65_535;
    c.script = Some(script);
}

fn at(step: Step, after: u64) -> When {
    When { step, after }
}

pub fn acts(p: &mut Plan, r: &mut Rng) {
    p.expect.clean = false;
    let n = p.request_bytes(0);
    let first = if r.permille(700) {
        n
    } else {
        r.range(1, n as u64) as usize
    };
    p.ask_at = first;
    let mut script = vec![(at(Step::Established, 0), Act::Send(first))];
    let mut w = when(r, &DURING, 2 * MS);
    match r.below(10) {
        0 => script.push((w, Act::Fin)),
        1 => {
            script.push((w, Act::Reset));
            p.expect.complete = false;
            p.expect.handover = false;
        }
        2 => script.push((w, Act::BlindReset)),
        3 => {
            let act = r.pick(&[Act::Keepalive(false), Act::Keepalive(true), Act::Repeat]);
            if r.permille(700) {
                // What it asks reaches the proxy's stack, and the answer comes too late.
                p.host_delay = 2 * MS;
                w = at(Step::Asked, r.range(1800 * US, 4 * MS));
            }
            script.push((w, act));
            // Nothing else tells the client that someone is there.
            p.think = 800 * MS;
            p.proxy_stack.ack_delay_ms = 0;
            p.rpc_delay = 5 * MS;
        }
        4 => {
            script.push((w, Act::ZeroWindow));
            let later = When {
                step: w.step,
                after: w.after + r.range(1, 300) * MS,
            };
            script.push((later, Act::OpenWindow));
        }
        5 => script.push((w, Act::SynAgain)),
        6 => {
            script.push((w, Act::OtherSyn));
            if r.permille(500) {
                // Nobody but the flow's own node hears it.
                p.dests = vec![p.owner.unwrap_or(1)];
            }
        }
        7 => {
            let k = first / 2;
            script[0].1 = Act::Send(k);
            script.push((at(Step::Established, MS), Act::Urgent(first - k)));
        }
        8 => {
            script[0].1 = Act::Ecn(first);
        }
        _ => {
            script.push((w, Act::Send(r.range(1, 900) as usize)));
        }
    }
    // What is left goes last.
    script.push((at(Step::Buried, 5 * MS), Act::Send(n)));
    scripted(p, r, script);
}

/// Bytes from behind a hole, which the proxy's stack SACKs before the freeze.
pub fn sacked(p: &mut Plan, r: &mut Rng) {
    p.expect.clean = false;
    let n = r.range(400, 3000) as usize;
    p.clients[0].requests = vec![(n, r.range(1, 9000) as usize)];
    let first = r.range(24, n as u64 / 3) as usize;
    let hole = r.range(1, 100) as usize;
    p.ask_at = first;
    let fill = when(r, &DURING, 3 * MS);
    let ahead = r.pick(&[20 * US, 1500 * US]);
    let script = vec![
        (at(Step::Established, 0), Act::Send(first)),
        (at(Step::Established, 10 * US), Act::Skip(hole)),
        (at(Step::Established, ahead), Act::Send(n)),
        (fill, Act::Fill),
    ];
    p.rpc_delay = r.pick(&[MS, 5 * MS]);
    scripted(p, r, script);
}

/// More held than a cap allows: what is beyond is dropped, and repaired by the client.
pub fn hold_cap(p: &mut Plan, r: &mut Rng) {
    let n = r.range(5_000, 30_000) as usize;
    let c = &mut p.clients[0];
    c.requests = vec![
        (r.range(24, 600) as usize, 100),
        (n, r.range(1, 9000) as usize),
    ];
    p.ask_at = c.requests[0].0;
    c.chunks = vec![(p.ask_at, 0), (n, r.below(MS))];
    p.rpc_delay = 5 * MS;
    p.hold_flow = r.range(2, 6) as usize * 1600;
    p.expect.clean = false;
}

/// The worker must notice that more was acknowledged than drained.
pub fn short_drain(p: &mut Plan, _: &mut Rng) {
    p.short_drain = true;
    p.proxy_stack.ack_delay_ms = 0;
    p.rpc_delay = 5 * MS;
    p.expect.clean = false;
    p.expect.complete = false;
    p.expect.handover = false;
}

pub fn reopen(p: &mut Plan, r: &mut Rng) {
    let w = when(r, &Step::ALL, 5 * MS);
    p.faults.push((w, Fault::Reopen));
    p.clients[0].requests[0].1 += 20_000;
    p.think = r.pick(&[0, 3 * MS, 60 * MS]);
    p.expect.clean = false;
    p.expect.stale = true;
}

pub fn reuse(p: &mut Plan, r: &mut Rng) {
    let ahead = r.pick(&[1u32, 1000, 100_000, 0x4000_0000, 0xc000_0000]);
    let wait = r.pick(&[0, MS, 500 * MS, 4000 * MS, 9000 * MS]);
    p.clients[0].reuse = Some((wait, ahead));
    p.recycle = r.permille(500);
    p.expect.clean = false;
}
