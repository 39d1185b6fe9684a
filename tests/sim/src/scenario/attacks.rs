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
        ]);
        p.faults.push((when, fault));
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
