//! Undisturbed handovers of every shape: the client must notice nothing.

use super::network;
use crate::plan::{Fault, MS, Plan, Step, US, When};
use crate::rng::Rng;
use crate::talk::HEAD;

/// Splits `n` bytes at random, with pauses.
pub fn pieces(r: &mut Rng, n: usize, most: u64, pause: u64) -> Vec<(usize, u64)> {
    let mut left = n;
    let mut out = Vec::new();
    while left > 0 && out.len() < most as usize {
        let k = (r.range(1, left as u64) as usize).min(1400);
        out.push((k, r.below(pause + 1)));
        left -= k;
    }
    out
}

pub fn plain(p: &mut Plan, r: &mut Rng) {
    if r.permille(500) {
        let n = p.request_bytes(0);
        p.clients[0].chunks = pieces(r, n, 4, 3 * MS);
    }
    p.read_most = if r.permille(500) {
        usize::MAX
    } else {
        r.range(1, 100) as usize
    };
    if r.permille(100) {
        // The last byte has a segment of its own, like a keepalive's.
        let n = p.request_bytes(0);
        p.clients[0].chunks = vec![(n - 1, 0), (1, r.below(MS))];
    }
    p.clients[0].odd_syn = r.permille(200);
    if r.permille(100) {
        // Longer than the client's patience: something must acknowledge its request.
        p.think = 1500 * MS;
    }
}

/// The proxy asks after `ask_at` bytes, whatever came of the request by then.
pub fn offsets(p: &mut Plan, r: &mut Rng) {
    let n = p.request_bytes(0).max(HEAD);
    p.ask_at = 1 + (p.seed as usize % n);
    let mut chunks = vec![(p.ask_at, 0)];
    if p.ask_at < n {
        chunks.extend(pieces(r, n - p.ask_at, 3, 2 * MS));
    }
    p.clients[0].chunks = chunks;
}

pub fn numbers(p: &mut Plan, r: &mut Rng) {
    let c = &mut p.clients[0];
    c.requests = vec![(r.range(24, 6000) as usize, r.range(1, 40_000) as usize)];
    p.ask_at = c.requests[0].0;
    c.setup.isn = r.edge_u32(8000);
    // The clock wraps within the run.
    c.setup.ts_offset = r.edge_u32(400);
    p.app_stack.ts_offset = r.edge_u32(400);
    p.proxy_stack.ts_offset = r.edge_u32(400);
}

pub fn options(p: &mut Plan, r: &mut Rng) {
    p.mtu = r.pick(&[1500, 1500, 9000]);
    p.hold = 96 * (p.mtu + 100);
    p.hold_flow = 64 * (p.mtu + 100);
    let mss = r.pick(&[536, 537, 1000, 1220, 1400, 1460, 4096, 8960]);
    let c = &mut p.clients[0];
    c.setup.mtu = (mss + 40).min(p.mtu);
    c.setup.ts = r.permille(700);
    c.setup.sack = r.permille(700);
    c.setup.shift = r.permille(800).then(|| r.range(0, 14) as u8);
    // A window of no unit would be none at all.
    c.setup.rx = 65_535;
    c.requests = vec![(r.range(24, 5000) as usize, r.range(1, 40_000) as usize)];
    p.ask_at = c.requests[0].0;
    p.proxy_stack.mtu = p.mtu;
    p.app_stack.mtu = p.mtu;
    p.proxy_stack.ts = r.permille(800);
    p.proxy_stack.sack = r.permille(800);
    p.proxy_stack.shift = r.permille(850).then(|| r.range(0, 14) as u8);
    p.app_stack.shift = Some(r.range(0, 14) as u8);
    if r.permille(700) {
        pipelined(p, r);
    }
}

pub fn handshake(p: &mut Plan, r: &mut Rng) {
    if r.permille(500) {
        p.app_fast_open = false;
    } else {
        p.fast_open = false;
    }
    let n = r.range(24, 5000) as usize;
    p.clients[0].requests = vec![(n, r.range(1, 20_000) as usize)];
    p.ask_at = n;
    if r.permille(300) {
        // The stack is so slow that the filter gives it the request again.
        p.host_delay = 24 * MS;
    }
}

pub fn large(p: &mut Plan, r: &mut Rng) {
    let n = r.range(1400, 40_000) as usize;
    let c = &mut p.clients[0];
    c.requests = vec![(n, r.range(1, 20_000) as usize)];
    p.ask_at = if r.permille(500) {
        n
    } else {
        r.range(1, n as u64) as usize
    };
    p.hold = 512 << 10;
    p.hold_flow = 128 << 10;
}

pub fn pipelined(p: &mut Plan, r: &mut Rng) {
    let k = r.range(2, 4);
    let c = &mut p.clients[0];
    c.requests = (0..k)
        .map(|_| (r.range(24, 2500) as usize, r.range(1, 9000) as usize))
        .collect();
    let all: usize = c.requests.iter().map(|q| q.0).sum();
    p.ask_at = c.requests[0].0;
    let mut chunks = vec![(c.requests[0].0, 0)];
    let pause = p.rpc_delay.max(500 * US);
    chunks.extend(pieces(r, all - c.requests[0].0, 12, pause));
    p.clients[0].chunks = chunks;
}

pub fn itself(p: &mut Plan, r: &mut Rng) {
    p.dests = vec![p.owner.unwrap_or(1)];
    match r.below(3) {
        0 => pipelined(p, r),
        1 => offsets(p, r),
        _ => plain(p, r),
    }
}

pub fn refusals(p: &mut Plan, r: &mut Rng) {
    p.nodes = r.range(3, 4) as u16;
    let owner = r.range(1, u64::from(p.nodes)) as u16;
    p.owner = Some(owner);
    let others: Vec<u16> = (1..=p.nodes).filter(|&n| n != owner).collect();
    let bad = others[0];
    p.dests = if r.permille(300) {
        vec![bad, owner]
    } else {
        vec![bad, others[1]]
    };
    match r.below(3) {
        0 => p.no_listener = vec![bad],
        1 => p.deaf = vec![bad],
        _ => {
            p.plain_stack = vec![bad];
            // Its application may read before anyone sees what it does not agree to.
            p.app_fast_open = r.permille(500);
            p.expect.complete = !p.app_fast_open;
            p.expect.clean = !p.app_fast_open;
            p.expect.handover = !p.app_fast_open;
        }
    }
    if r.permille(200) {
        p.dests[0] = owner;
        p.dests[1] = bad;
        p.no_listener = vec![owner];
        p.deaf.clear();
        p.plain_stack.clear();
        p.expect.complete = true;
        p.expect.clean = true;
        p.expect.handover = true;
    }
    if r.permille(300) {
        pipelined(p, r);
    }
    p.retry_wait = r.pick(&[0, 0, 1500 * MS]);
    p.think = p.think.min(3 * MS);
}

/// Each further request is answered by another node, which may have had the flow before.
pub fn again(p: &mut Plan, r: &mut Rng) {
    p.nodes = r.range(2, 4) as u16;
    let owner = r.range(1, u64::from(p.nodes)) as u16;
    p.owner = Some(owner);
    p.dests = vec![(owner % p.nodes) + 1];
    let mut at = p.dests[0];
    for _ in 0..r.range(1, 4) {
        let others: Vec<u16> = (1..=p.nodes).filter(|&n| n != at).collect();
        at = r.pick(&others);
        p.hops.push(at);
    }
    let c = &mut p.clients[0];
    c.requests = (0..=p.hops.len())
        .map(|_| (r.range(24, 1200) as usize, r.range(1, 5000) as usize))
        .collect();
    p.ask_at = c.requests[0].0;
    // The client waits for its answer, and longer than its stack holds an
    // acknowledgement back.
    c.delay = r.pick(&[50 * US, 500 * US, 2 * MS]);
    let wait = |i: usize| if i == 0 { 0 } else { 400 * MS };
    let sizes = c.requests.iter().enumerate();
    c.chunks = sizes.map(|(i, q)| (q.0, wait(i))).collect();
    p.think = r.pick(&[0, 100 * US, 3 * MS]);
    p.app_closes = false;
    if r.permille(250) {
        // The intake does not take the flow back, and remembers it all the same.
        p.no_listener = vec![owner];
    }
    if r.permille(250) {
        let step = Step::Answered;
        let after = r.range(0, 400 * p.hops.len() as u64) * MS;
        p.faults.push((When { step, after }, Fault::OldSyn));
    }
    match r.below(4) {
        0 => network::noise(p, r),
        1 => network::link_noise(p, r),
        _ => {}
    }
}
