//! What happens to nodes.

use super::{handover, network};
use crate::plan::{Fault, MS, Plan, SEC, Step, When, usual_client};
use crate::rng::Rng;

fn dies(p: &mut Plan, r: &mut Rng, node: u16) {
    let step = r.pick(&Step::ALL);
    let after = r.below(3 * MS);
    let when = |after| When { step, after };
    p.faults.push((when(after), Fault::Crash(node)));
    if r.permille(600) {
        let back = after + r.pick(&[MS, 30 * MS, 200 * MS, 5 * SEC]);
        p.faults.push((when(back), Fault::Restart(node)));
    }
    if r.permille(500) {
        handover::pipelined(p, r);
    }
    network::disturbed(p);
}

pub fn dest_dies(p: &mut Plan, r: &mut Rng) {
    let node = p.dests[0];
    dies(p, r, node);
}

/// The client of a dead owner hangs until its own patience ends; that is documented.
pub fn source_dies(p: &mut Plan, r: &mut Rng) {
    let node = p.owner.unwrap_or(1);
    dies(p, r, node);
    p.expect.may_hang = true;
}

pub fn app_dies(p: &mut Plan, r: &mut Rng) {
    let step = r.pick(&[
        Step::Asked,
        Step::Splice,
        Step::Replay,
        Step::Taken,
        Step::Answered,
    ]);
    let when = When {
        step,
        after: r.below(2 * MS),
    };
    p.faults.push((when, Fault::AppDies(p.dests[0])));
    if r.permille(500) {
        p.app_resets = true;
        p.faults.clear();
    }
    network::disturbed(p);
}

pub fn ownership(p: &mut Plan, r: &mut Rng) {
    let owner = p.owner.unwrap_or(1);
    let other = (owner % p.nodes) + 1;
    p.other_view = vec![(other, other)];
    p.dests = vec![(other % p.nodes) + 1, owner, other];
    p.expect.clean = false;
    if r.permille(300) {
        p.faults.push((
            When {
                step: Step::Established,
                after: r.below(5 * MS),
            },
            Fault::WrongAck,
        ));
    }
}

pub fn many(p: &mut Plan, r: &mut Rng) {
    p.owner = None;
    for _ in 0..r.range(1, 3) {
        let mut c = usual_client(r);
        c.requests[0].0 = p.ask_at;
        p.clients.push(c);
    }
    p.dests = (1..=p.nodes).collect();
}
