//! What networks do.

use super::{KINDS, handover};
use crate::plan::{Fate, Fault, Impair, LinkRule, MS, Plan, Step, US, When};
use crate::rng::Rng;
use dts_proto::block::Kind;

pub fn steps(p: &mut Plan, r: &mut Rng) {
    for _ in 0..r.range(1, 2) {
        let fate = match r.below(3) {
            0 => Fate::Lose,
            1 => Fate::Twice(r.below(30 * MS)),
            _ => Fate::Late(r.range(1, 200) * MS),
        };
        p.rules.push(LinkRule {
            kind: r.pick(&KINDS),
            from: r.pick(&[0, 0, 0, 1]),
            count: r.pick(&[1, 1, 2, 4, 1000]),
            fate,
        });
    }
    match r.below(3) {
        0 => handover::pipelined(p, r),
        1 => handover::large(p, r),
        _ => {}
    }
    if r.permille(300) {
        p.fast_open = false;
    }
    disturbed(p);
    let special = |kind, fate| LinkRule {
        kind,
        from: 0,
        count: 1000,
        fate,
    };
    match r.below(8) {
        0 => {
            // The abort comes while a slow stack has the request.
            let late = Fate::Late(r.range(60, 98) * MS);
            p.rules = vec![special(Kind::Splice, late)];
            p.host_delay = 24 * MS;
            p.fast_open = true;
        }
        1 => {
            // Only the client can tell the source that the destination accepted.
            p.rules = vec![special(Kind::Accept, Fate::Lose)];
            p.think = p.think.min(3 * MS);
            // It lasts longer than the deadline of an unknown outcome.
            let c = &mut p.clients[0];
            c.setup.rx = 4000;
            c.setup.shift = Some(0);
            c.slow_reader = (2000, 200 * MS);
            c.requests.last_mut().expect("a request").1 = 40_000;
            p.expect.complete = true;
            p.expect.may_reset = false;
        }
        _ => {}
    }
}

/// A link that may lose anything: a handover may fail, an outcome may be unknown.
pub fn disturbed(p: &mut Plan) {
    p.expect.clean = false;
    p.expect.complete = false;
    p.expect.may_reset = true;
    p.expect.handover = false;
    let owner = p.owner.unwrap_or(1);
    if p.dests.len() == 1 {
        p.dests.push(owner);
    }
}

fn noisy(r: &mut Rng, most: u64) -> Impair {
    let mut one = |m: u64| {
        if r.permille(500) {
            r.range(1, m) as u32
        } else {
            0
        }
    };
    let (loss, dup, reorder, corrupt) = (one(most), one(most), one(most * 2), one(most / 2));
    Impair {
        loss,
        dup,
        reorder,
        corrupt,
        jitter: r.pick(&[0, 100 * US, 3 * MS]),
    }
}

pub fn noise(p: &mut Plan, r: &mut Rng) {
    p.wire = noisy(r, 80);
    p.expect.clean = false;
    match r.below(4) {
        0 => handover::pipelined(p, r),
        1 => handover::large(p, r),
        2 => handover::handshake(p, r),
        _ => {}
    }
    p.clients[0].setup.sack = r.permille(500);
    if r.permille(250) {
        handover::pipelined(p, r);
        p.wire.corrupt = 120;
    }
}

pub fn link_noise(p: &mut Plan, r: &mut Rng) {
    p.link = noisy(r, 200);
    if r.permille(500) {
        p.wire = noisy(r, 30);
    }
    match r.below(3) {
        0 => handover::pipelined(p, r),
        1 => handover::large(p, r),
        _ => {}
    }
    disturbed(p);
}

pub fn partition(p: &mut Plan, r: &mut Rng) {
    let (a, b) = (p.owner.unwrap_or(1), p.dests[0]);
    let step = r.pick(&Step::ALL);
    let cut = r.below(2 * MS);
    let heal = cut + r.pick(&[5 * MS, 60 * MS, 140 * MS, 1000 * MS, 5000 * MS]);
    let when = |after| When { step, after };
    p.faults.push((when(cut), Fault::Cut(a, b)));
    p.faults.push((when(heal), Fault::Heal(a, b)));
    if r.permille(500) {
        handover::pipelined(p, r);
    }
    disturbed(p);
}
