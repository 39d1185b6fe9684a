//! Rules that the traffic of ordinary stacks does not touch, each with what does.

use super::client;
use crate::plan::{Act, Fault, MS, Plan, SEC, Step, US, When};
use crate::rng::Rng;

fn at(step: Step, after: u64) -> When {
    When { step, after }
}

pub fn rules(p: &mut Plan, r: &mut Rng) {
    match r.below(9) {
        0 => urgent(p, r),
        1 => storm(p, r),
        2 => {
            let w = at(r.pick(&[Step::Established, Step::Answered]), r.below(MS));
            p.faults.push((w, Fault::Fragments));
            p.think = p.think.max(3 * MS);
        }
        3 => {
            client::hold_cap(p, r);
            p.hold = r.range(2, 6) as usize * 1600;
            p.hold_flow = 64 << 10;
        }
        4 => p.rotate = true,
        5 => vanished(p, r),
        6 => out_of_band(p, r),
        7 => moved(p, r),
        _ => p.faults.push((
            at(r.pick(&[Step::Established, Step::Taken]), 0),
            Fault::Solicit,
        )),
    }
}

/// An urgent byte in a segment that begins below K.
fn urgent(p: &mut Plan, r: &mut Rng) {
    let first = r.range(24, 600) as usize;
    let n = r.range(1, 600) as usize;
    let c = &mut p.clients[0];
    c.requests = vec![(first + n, 100)];
    c.delay = r.pick(&[50 * US, 500 * US]);
    c.setup.rx = 65_535;
    let w = at(
        r.pick(&[Step::Asked, Step::Frozen, Step::Drained, Step::Splice]),
        r.below(MS),
    );
    c.script = Some(vec![
        (at(Step::Established, 0), Act::Send(first)),
        (w, Act::UrgentAgain(r.range(1, 20) as usize, n)),
    ]);
    p.ask_at = first;
    p.rpc_delay = 5 * MS;
    p.expect.clean = false;
}

/// An urgent byte in the request that reading leaves out: such a flow stays.
fn out_of_band(p: &mut Plan, r: &mut Rng) {
    let (k, n) = (r.range(12, 300) as usize, r.range(12, 300) as usize);
    let c = &mut p.clients[0];
    c.requests = vec![(k + n, 100)];
    c.delay = r.pick(&[50 * US, 500 * US]);
    c.setup.rx = 65_535;
    c.script = Some(vec![
        (at(Step::Established, 0), Act::Urgent(k)),
        (at(Step::Established, 20 * US), Act::Send(n)),
    ]);
    p.ask_at = k + n - 1;
    p.proxy_stack.out_of_band = true;
    // Often nothing of the request was acknowledged when it is drained.
    p.proxy_stack.ack_delay_ms = 40;
    p.expect.clean = false;
    p.expect.complete = false;
    p.expect.handover = false;
}

/// Bare acknowledgements in turn: too many, or so few that no rule may mind.
fn storm(p: &mut Plan, r: &mut Rng) {
    let c = &mut p.clients[0];
    c.delay = r.pick(&[50 * US, 500 * US, 2 * MS]);
    c.requests = vec![(r.range(24, 600) as usize, 300), (100, 300)];
    p.ask_at = c.requests[0].0;
    c.chunks = vec![(p.ask_at, 0), (100, 600 * MS)];
    p.think = 0;
    let (rounds, gap) = r.pick(&[(200, 200 * US), (10, 5 * MS)]);
    let begin = 100 * MS;
    p.faults = vec![
        (at(Step::Answered, begin), Fault::Storm(rounds, gap)),
        (
            at(Step::Answered, begin + 100 * MS),
            Fault::StormOver(rounds),
        ),
    ];
    p.expect.clean = false;
}

/// The serving stack forgets the connection without a word.
fn vanished(p: &mut Plan, r: &mut Rng) {
    let first = r.range(24, 600) as usize;
    let dest = p.dests[0];
    let c = &mut p.clients[0];
    c.requests = vec![(first, 300), (100, 100)];
    c.setup.rx = 65_535;
    c.script = Some(vec![
        (at(Step::Established, 0), Act::Send(first)),
        (at(Step::Answered, 12 * SEC), Act::Send(100)),
    ]);
    p.ask_at = first;
    let after = |s: u64| at(Step::Answered, s * SEC);
    p.faults = vec![
        (after(1), Fault::Forget(dest)),
        (after(2), Fault::Look(dest)),
        (after(4), Fault::Look(dest)),
        (after(6), Fault::NoFlow(dest)),
    ];
    p.expect.clean = false;
    p.expect.complete = false;
    p.expect.may_reset = true;
}

/// The owner of the bucket changes while the flow lives.
fn moved(p: &mut Plan, r: &mut Rng) {
    let first = r.range(24, 600) as usize;
    let c = &mut p.clients[0];
    c.requests = vec![(first, 300), (100, 100)];
    c.setup.rx = 65_535;
    c.script = Some(vec![
        (at(Step::Established, 0), Act::Send(first)),
        (at(Step::Answered, 3 * SEC), Act::Send(100)),
    ]);
    p.ask_at = first;
    p.faults = vec![(at(Step::Answered, r.range(200, 900) * MS), Fault::Moved)];
    p.expect.clean = false;
}
