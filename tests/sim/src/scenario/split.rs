//! A cluster that falls apart and heals, with clients all the while.

use super::network;
use crate::members::FREEZE_SHORT;
use crate::plan::{Fault, Impair, MS, Plan, SEC, Step, US, When, usual_client};
use crate::rng::Rng;

/// When all nodes that hear each other must agree again.
const HEALED: u64 = 2 * SEC;
/// When both halves of a link must have come to terms with it.
const DIVIDED: u64 = 1_500 * MS;

pub fn split(p: &mut Plan, r: &mut Rng) {
    p.members = true;
    p.owner = None;
    p.nodes = r.range(2, 4) as u16;
    p.dests = (1..=p.nodes).collect();
    network::disturbed(p);
    p.app_closes = false;
    p.link = Impair {
        loss: r.pick(&[0, 0, 10]),
        dup: r.pick(&[0, 0, 10]),
        jitter: r.pick(&[0, 100 * US, 3 * MS]),
        ..Impair::default()
    };
    let mut at = r.range(300, 900) * MS;
    let last = r.range(1, 2);
    for n in 1..=last {
        at = episode(p, r, at, n == last);
    }
    clients(p, r, at);
}

/// Something breaks at `at` and is whole again; gives when all must agree. Who does not come
/// back does so in the last one only: what was lost before counts when a link breaks.
fn episode(p: &mut Plan, r: &mut Rng, at: u64, last: bool) -> u64 {
    let node = r.range(1, u64::from(p.nodes)) as u16;
    let span = r.pick(&[30 * MS, 200 * MS, 700 * MS, 1_600 * MS, 3_500 * MS]) + r.below(200 * MS);
    let mut healed = at + span;
    let nodes = p.nodes;
    let mut then = |at, fault| {
        let when = When {
            step: Step::Begun,
            after: at,
        };
        p.faults.push((when, fault));
    };
    match r.below(6) {
        0 | 1 => {
            // Some of the nodes from 2 on: node 1 is on the other side.
            let side = r.range(1, (1 << (nodes - 1)) - 1) as u16;
            then(at, Fault::Halves(side << 2));
            then(healed, Fault::Whole);
            if span > DIVIDED {
                then(at + DIVIDED, Fault::Divided);
            }
        }
        2 => {
            then(at, Fault::WireCut(node));
            then(healed, Fault::WireHeal(node));
        }
        3 => {
            then(at, Fault::Crash(node));
            if last && r.permille(400) {
                healed = at;
            } else {
                then(healed, Fault::Restart(node));
            }
        }
        4 => {
            let span = if r.permille(500) { FREEZE_SHORT } else { span };
            healed = at + span;
            then(at, Fault::Freeze(node, span));
        }
        _ => {
            then(at, Fault::Drain(node));
            then(healed, Fault::Undrain(node));
        }
    }
    then(healed + HEALED, Fault::Agreed);
    healed + HEALED + r.below(300 * MS)
}

/// Clients that come all the while, and stay.
fn clients(p: &mut Plan, r: &mut Rng, until: u64) {
    p.ask_at = r.range(24, 1_200) as usize;
    p.clients.clear();
    for _ in 0..r.range(3, 6) {
        let mut c = usual_client(r);
        c.start = r.range(100 * MS, until - SEC);
        c.delay = r.pick(&[50 * US, 500 * US, 2 * MS, 12 * MS]);
        c.requests = (0..r.range(1, 6))
            .map(|_| (r.range(24, 1_200) as usize, r.range(1, 20_000) as usize))
            .collect();
        c.requests[0].0 = p.ask_at;
        let pause = r.pick(&[MS, 50 * MS, 400 * MS]);
        c.chunks = (c.requests.iter().enumerate())
            .map(|(i, q)| (q.0, if i == 0 { 0 } else { r.range(MS, 2 * pause) }))
            .collect();
        p.clients.push(c);
    }
    if r.permille(300) {
        // Some requests are answered by another node than the one before.
        p.hops = (0..6)
            .map(|_| r.range(1, u64::from(p.nodes)) as u16)
            .collect();
    }
}
