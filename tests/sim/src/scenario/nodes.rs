//! What happens to nodes.

use super::{handover, network};
use crate::plan::{Fault, MS, Plan, SEC, Step, US, When, usual_client};
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

/// Destinations that die while their application thinks, and sometimes when it has spoken:
/// then nobody may speak in its place.
pub fn repeat(p: &mut Plan, r: &mut Rng) {
    p.nodes = r.range(2, 4) as u16;
    let owner = r.range(1, u64::from(p.nodes)) as u16;
    let first = (owner % p.nodes) + 1;
    (p.owner, p.dests) = (Some(owner), vec![first]);
    p.repeats = r.range(1, 3) as u8;
    p.no_listener = (1..=p.nodes)
        .filter(|&n| n != first && n != owner && r.permille(150))
        .collect();
    match r.below(4) {
        0 => handover::pipelined(p, r),
        1 => handover::large(p, r),
        2 => client_half_closes(p, r),
        _ => {}
    }
    network::disturbed(p);
    p.dests.truncate(1);
    p.clients[0].delay = r.pick(&[50 * US, 500 * US, 2 * MS, 12 * MS, 50 * MS]);
    let spoken = r.permille(300);
    let step = if spoken {
        r.pick(&[Step::Taken, Step::Accept, Step::Answered])
    } else {
        r.pick(&[
            Step::Splice,
            Step::Replay,
            Step::Taken,
            Step::Accept,
            Step::Buried,
        ])
    };
    p.think = if spoken { r.below(4 * MS) } else { 1_000 * MS };
    let mut after = r.below(if spoken { 4 * MS } else { 200 * MS });
    if !spoken && r.permille(200) {
        // So long that the client counts as one whom nobody serves.
        p.think = 5 * SEC;
        after += 2_500 * MS;
    }
    let when = |after| When { step, after };
    p.faults.push((when(after), Fault::Crash(first)));
    if r.permille(400) {
        let back = after + r.pick(&[MS, 30 * MS, 200 * MS, 5 * SEC]);
        p.faults.push((when(back), Fault::Restart(first)));
    }
    if p.nodes > 2 && r.permille(300) {
        // The next one dies as well.
        let next = (first % p.nodes) + 1;
        let next = if next == owner {
            (next % p.nodes) + 1
        } else {
            next
        };
        let later = after + r.range(100, 900) * MS;
        p.faults.push((when(later), Fault::Crash(next)));
    }
    // Nodes that died are one less than the repetitions and the nodes that are left.
    let deaths = p
        .faults
        .iter()
        .filter(|f| matches!(f.1, Fault::Crash(_)))
        .count();
    p.expect.complete = !spoken && deaths <= usize::from(p.repeats);
    p.expect.may_reset = !p.expect.complete;
    p.expect.may_hang = spoken;
}

/// The client says that it has nothing more to say, while it waits.
fn client_half_closes(p: &mut Plan, r: &mut Rng) {
    let n = p.request_bytes(0);
    p.clients[0].half_close = true;
    p.clients[0].chunks = vec![(n - 1, 0), (1, r.below(30 * MS))];
    p.ask_at = n - 1;
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
