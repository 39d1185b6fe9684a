//! The bounded share of the simulation that every test run does. `make sim` does the rest.

use dts_sim::plan::Plan;
use dts_sim::run;
use dts_sim::scenario::Family;
use dts_sim::world::World;

/// Seeds that once showed a defect of `dts-core` or of a shim, with what it was.
const PINNED: &[(Family, u64, &str)] = &[
    (
        Family::Noise,
        15,
        "a damaged SYN fixed the options of its flow",
    ),
    (
        Family::HalfClose,
        1,
        "the ack of a FIN was taken back at the cut over",
    ),
    (
        Family::Refusals,
        0,
        "refused although the application had read the request",
    ),
    (
        Family::Refusals,
        11,
        "segments from above a hole made the client repeat",
    ),
    (
        Family::Plain,
        144,
        "a request's last byte was taken for a keepalive",
    ),
    (
        Family::DestDies,
        226,
        "another incarnation's refusal was taken for proof",
    ),
    (
        Family::ClientActs,
        745,
        "a forged SYN silenced a flow for ever",
    ),
    (
        Family::ClientActs,
        18427,
        "a challenge that the proxy's socket owed was asked of the application's",
    ),
    (
        Family::ClientActs,
        1904,
        "a forged SYN right after the cut over made a repeated SYN-ACK end the flow",
    ),
    (
        Family::Handshake,
        9,
        "a D-SACK of replayed bytes left a duplicate ACK",
    ),
    (
        Family::Slow,
        2111,
        "a client's stack promised two bytes more than it took",
    ),
    (
        Family::Again,
        8,
        "a tombstone was not told of the end of a flow that came back",
    ),
    (
        Family::Again,
        49,
        "a refusal by a node that had the flow forgot its tombstone",
    ),
    (
        Family::ClientActs,
        151,
        "a keepalive that came just before the freeze was not answered",
    ),
    (
        Family::Reopen,
        36,
        "the old connection's stack reset the client's new one",
    ),
    (
        Family::Split,
        766,
        "new data that bear the numbers of the last ACK were taken for repeated ones",
    ),
];

#[test]
fn pinned_seeds_stay_clean() {
    for (family, seed, what) in PINNED {
        let r = run(*seed, Some(*family));
        assert_eq!(r.violation, None, "{} {seed}: {what}", family.name());
    }
}

/// Every family, the first seeds of each.
#[test]
fn every_family_holds() {
    for &family in Family::ALL {
        for seed in 0..150 {
            let r = run(seed, Some(family));
            assert_eq!(r.violation, None, "seed {seed} of {}", family.name());
        }
    }
}

/// A handover at every byte offset of one request.
#[test]
fn a_handover_at_every_byte_of_a_request() {
    for at in 1..=200 {
        let mut plan = Plan::new(1, Some(Family::Plain));
        plan.clients[0].requests = vec![(200, 3000)];
        plan.ask_at = at;
        plan.read_most = usize::MAX;
        plan.clients[0].chunks = vec![(at, 0), (200 - at, 300_000)];
        let r = World::new(plan, None).run().0;
        assert_eq!((r.violation, r.handovers), (None, 1), "asked at byte {at}");
    }
}

#[test]
fn one_seed_is_one_run() {
    for &family in Family::ALL {
        let (a, b) = (run(7, Some(family)), run(7, Some(family)));
        assert_eq!(
            (a.trace, a.frames, a.end),
            (b.trace, b.frames, b.end),
            "{}",
            family.name()
        );
        let c = run(8, Some(family));
        assert_ne!(
            a.trace,
            c.trace,
            "{}: the trace tells runs apart",
            family.name()
        );
    }
}
