//! Policy `scheduled` between nodes: who schedules, and how its word comes to all.

use super::*;
use dts_membership::Schedule;

/// A cluster whose last node has so many more connections than the others that it is given
/// fewer, and everybody works by that.
pub(crate) fn skewed(seed: u64, nodes: u16, net: Net) -> World {
    let mut w = World::new(seed, nodes, net);
    w.settings.schedule = ms(1000);
    for id in w.ids() {
        w.boot(id);
        w.load(id, if id == nodes { 2_000 } else { 200 });
    }
    let all = w.all();
    let limit = ms(6000) + ms(100) * u32::from(nodes);
    w.until(limit, &format!("seed {seed}: a schedule"), |w| {
        w.agree(&all) && w.factor(1, nodes) < 700
    });
    w
}

#[test]
fn a_schedule_reaches_everybody() {
    for seed in 0..60 {
        let n = size(seed).clamp(3, 16);
        let mut w = skewed(seed, n, noisy(seed));
        for id in w.ids() {
            assert_eq!(w.core(id).schedule().stamp.scheduler, 1, "seed {seed}");
            let shares = w.core(id).agreed().scheduled(0);
            let (last, others) = shares.split_last().expect("all are there");
            assert!(others.iter().all(|s| s.weight > last.weight), "{shares:?}");
            assert!(
                w.core(id)
                    .agreed()
                    .shares(0)
                    .iter()
                    .all(|s| s.weight == 100)
            );
        }
        // Loads that stay as they are move nothing for ever.
        for id in w.ids() {
            w.load(id, 200);
        }
        w.run_for(ms(40_000));
        let settled = w.core(1).schedule().clone();
        w.run_for(ms(5_000));
        assert_eq!(*w.core(1).schedule(), settled, "seed {seed}");
        let all = w.all();
        assert!(w.agree(&all), "seed {seed}\n{}", w.tell());
        assert_eq!(w.deaths, [], "seed {seed}");
    }
}

#[test]
fn nodes_work_by_one_schedule_before_an_old_owner_lets_go() {
    let mut spans = Vec::new();
    for seed in 0..120 {
        let n = size(seed).max(3);
        let mut w = skewed(seed, n, noisy(seed));
        let all = w.all();
        w.load(n, 200);
        for _ in 0..10 {
            let (stamp, end) = (w.core(1).schedule().stamp, w.now + ms(3000));
            while w.core(1).schedule().stamp == stamp && w.now < end {
                w.run_for(ms(1));
            }
            if w.core(1).schedule().stamp != stamp {
                let what = format!("seed {seed}: one schedule");
                let one = |w: &World| {
                    w.ids()
                        .all(|id| w.core(id).schedule() == w.core(1).schedule())
                };
                let began = w.now;
                while !one(&w) {
                    w.run_for(ms(1));
                    assert!(w.now < began + ms(2500), "{what}\n{}", w.tell());
                }
                spans.push(w.now - began);
                w.until(ms(1000), &what, |w| w.agree(&all));
            }
        }
    }
    assert!(spans.len() > 300, "{}", spans.len());
    let (mid, high) = (percentile(&mut spans, 50), percentile(&mut spans, 99));
    let worst = *spans.last().expect("some");
    println!(
        "{} schedules told: median {mid:?}, 99 of 100 {high:?}, worst {worst:?}",
        spans.len()
    );
    // What `dtsd` gives a node that loses buckets.
    assert!(worst < ms(300), "{worst:?}");
}

#[test]
fn when_the_scheduler_dies_the_next_one_goes_on() {
    for seed in 0..150 {
        let n = size(seed).max(3);
        let mut w = skewed(seed, n, noisy(seed));
        let (before, factor) = (w.core(2).schedule().clone(), w.factor(2, n));
        w.crash(1);
        let rest: Vec<u16> = w.ids().filter(|id| *id != 1).collect();
        let what = format!("seed {seed}: the scheduler's death");
        w.until(ms(1000), &what, |w| w.agree(&rest));
        // What was agreed on holds, and all of it has owners without another word.
        let shares = w.core(2).agreed().scheduled(0);
        assert_eq!(shares.len(), rest.len(), "seed {seed}");
        assert_eq!(w.core(n).schedule().stamp, w.core(2).schedule().stamp);
        let now = w.factor(2, n);
        assert!(
            f64::from(now) < f64::from(factor) * 1.4,
            "seed {seed}: {factor} became {now}"
        );
        // Then another one has its own word.
        w.load(n, 0);
        w.until(ms(20_000), &what, |w| {
            let stamp = w.core(n).schedule().stamp;
            stamp.scheduler == 2 && stamp.term == before.stamp.term + 1
        });
        w.until(ms(1000), &what, |w| w.agree(&rest));
    }
}

#[test]
fn a_scheduler_that_was_restarted_asks_before_it_speaks() {
    for seed in 0..100 {
        let n = size(seed).max(3);
        let mut w = skewed(seed, n, noisy(seed));
        let before = w.factor(2, n);
        w.crash(1);
        w.run_for(ms(seed % 600));
        w.boot(1);
        w.load(1, 200);
        let all = w.all();
        let what = format!("seed {seed}: its return");
        w.until(ms(3000), &what, |w| w.agree(&all));
        let now = w.factor(n, n);
        assert!(
            f64::from(now) < f64::from(before) * 1.4,
            "seed {seed}: {before} became {now}"
        );
        let term = w.core(n).schedule().stamp.term;
        w.load(n, 0);
        w.until(ms(20_000), &what, |w| {
            let stamp = w.core(n).schedule().stamp;
            stamp.scheduler == 1 && stamp.term > term && w.agree(&all)
        });
    }
}

#[test]
fn two_schedulers_become_one_when_a_cut_heals() {
    for seed in 0..100 {
        let n = [4, 6, 8, 16][(seed % 4) as usize];
        let mut w = skewed(seed, n, noisy(seed));
        for (i, side) in w.sides.iter_mut().enumerate() {
            *side = u8::from(i > usize::from(n) / 2);
        }
        let (a, b): (Vec<u16>, Vec<u16>) = w.ids().partition(|id| *id <= n / 2);
        let what = format!("seed {seed}: two halves");
        w.until(ms(1000) + ms(100) * u32::from(n), &what, |w| {
            w.agree(&a) && w.agree(&b)
        });
        // Either half has another reason to schedule, and does.
        w.load(1, 3_000);
        w.load(n, 200);
        w.load(n - 1, 3_000);
        w.until(ms(15_000), &what, |w| {
            let (upper, lower) = (w.core(1).schedule(), w.core(n).schedule());
            upper.factor(1) < 800
                && lower.stamp.scheduler == b[0]
                && lower.factor(n - 1) != upper.factor(n - 1)
        });
        w.run_for(ms(seed % 2500));
        w.sides.fill(0);
        let all = w.all();
        w.until(ms(4000), &format!("seed {seed}: healing"), |w| {
            let one = w.core(1).schedule();
            w.agree(&all) && w.ids().all(|id| w.core(id).schedule() == one)
        });
        w.until(ms(20_000), &format!("seed {seed}: one scheduler"), |w| {
            let both = |id| w.factor(id, 1) < 800 && w.factor(id, n - 1) < 800;
            w.core(n).schedule().stamp.scheduler == 1 && w.ids().all(both)
        });
    }
}

#[test]
fn a_minority_schedules_nothing() {
    let mut w = skewed(5, 5, CLEAN);
    for (i, side) in w.sides.iter_mut().enumerate() {
        *side = u8::from(i > 2);
    }
    w.until(ms(2000), "the cut", |w| {
        w.agree(&[1, 2]) && w.agree(&[3, 4, 5]) && w.core(1).agreed().minority
    });
    let before = w.core(1).schedule().clone();
    w.load(1, 4_000);
    w.run_for(ms(10_000));
    assert_eq!(*w.core(2).schedule(), before);
    assert_eq!(w.core(1).agreed().scheduler(), None);
    assert_eq!(w.core(5).agreed().scheduler(), Some(3));
}

#[test]
fn nothing_is_scheduled_where_no_service_wants_it() {
    let mut w = World::joined(3, 4, CLEAN);
    for id in w.ids() {
        w.load(id, u32::from(id) * 1_000);
    }
    w.run_for(ms(20_000));
    assert!(
        w.ids()
            .all(|id| *w.core(id).schedule() == Schedule::default())
    );
}
