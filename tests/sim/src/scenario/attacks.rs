//! What strangers send.

use crate::plan::{Fault, MS, Plan, Step, When};
use crate::rng::Rng;

pub fn attacks(p: &mut Plan, r: &mut Rng) {
    p.expect.clean = false;
    for _ in 0..r.range(1, 3) {
        let when = When {
            step: r.pick(&Step::ALL),
            after: r.below(3 * MS),
        };
        let fault = r.pick(&[
            Fault::Option32,
            Fault::Replayed,
            Fault::BareSplice,
            Fault::OldSyn,
            Fault::WrongAck,
            Fault::Routed,
        ]);
        p.faults.push((when, fault));
    }
    if r.permille(400) {
        // When nobody remembers the flow any more.
        let when = When {
            step: Step::Answered,
            after: 13_000 * MS,
        };
        p.faults
            .push((when, r.pick(&[Fault::Replayed, Fault::Forged])));
    }
}

pub fn icmp(p: &mut Plan, r: &mut Rng) {
    let when = When {
        step: r.pick(&[Step::Established, Step::Answered]),
        after: r.below(MS),
    };
    p.faults.push((when, Fault::Icmp));
    p.think = p.think.max(3 * MS);
}
