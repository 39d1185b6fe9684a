use super::*;
use proptest::prelude::*;

fn stamp(term: u32, counter: u32, scheduler: u16) -> Stamp {
    Stamp {
        term,
        counter,
        scheduler,
    }
}

proptest! {
    #[test]
    fn schedules_survive(
        factors in proptest::collection::btree_map(1u16.., LEAST..=FULL, 0..400),
        stamp in (1u32.., 1u32.., 1u16..),
    ) {
        let s = Schedule::new(self::stamp(stamp.0, stamp.1, stamp.2), factors.clone());
        let bytes = s.encode();
        prop_assert!(bytes.len() + envelope::OVERHEAD <= envelope::LEN_MAX);
        prop_assert_eq!(Schedule::decode(&bytes), Some(s.clone()));
        prop_assert_eq!(Schedule::decode(&bytes[..bytes.len() - 1]), None);
        // None that was left out is lower than one that was kept.
        let kept = s.factors().map(|(_, f)| f).max().unwrap_or(FULL);
        let left_out = factors.iter().filter(|(node, f)| s.factor(**node) != **f);
        prop_assert!(left_out.into_iter().all(|(_, f)| *f >= kept));
    }

    #[test]
    fn what_is_read_is_written_again(mut bytes in proptest::collection::vec(any::<u8>(), 10..40)) {
        // Most noise is invalid: the high bytes of factors are brought near to some.
        bytes.iter_mut().skip(12).step_by(4).for_each(|b| *b %= 5);
        if let Some(s) = Schedule::decode(&bytes) {
            prop_assert_eq!(s.encode(), bytes);
        }
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let good = Schedule::new(stamp(1, 2, 3), [(4, 125), (5, 999), (6, 1000)]);
    assert_eq!(good.factors().collect::<Vec<_>>(), [(4, 125), (5, 999)]);
    assert_eq!((good.factor(5), good.factor(6)), (999, FULL));
    let bytes = good.encode();
    assert_eq!(
        bytes,
        [0, 0, 0, 1, 0, 0, 0, 2, 0, 3, 0, 4, 0, 125, 0, 5, 3, 231]
    );
    // Term, counter, scheduler, node 0, factors 0 and 1000, members that do not ascend.
    for (at, value) in [(3, 0), (7, 0), (9, 0), (11, 0), (13, 0), (17, 232), (11, 5)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert_eq!(Schedule::decode(&bad), None, "byte {at}");
    }
    // No word yet: that is a question.
    let none = Schedule::default();
    assert_eq!(Schedule::decode(&none.encode()), Some(none));
    assert_eq!(Schedule::decode(&[]), None);
}

#[test]
fn the_later_schedule_holds() {
    let in_order = [
        Stamp::default(),
        stamp(1, 9, 9),
        stamp(2, 1, 3),
        stamp(2, 1, 4),
        stamp(2, 2, 1),
        stamp(3, 1, 1),
    ];
    assert!(in_order.is_sorted());
}

/// Servers under one stream of connections that the factors share out: what the loop does
/// to their loads. A connection lasts `lasts` looks at a server of speed 1.
struct Servers {
    weights: Vec<u8>,
    lasts: Vec<f64>,
    arrivals: f64,
    connections: Vec<f64>,
    told: Schedule,
    controller: Controller,
    changes: u32,
}

impl Servers {
    /// As policy `flow-hash` has left them: shares by weight, whatever the speed.
    fn new(weights: &[u8], slowness: &[f64], lasts: f64, mean: f64) -> Self {
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let lasts: Vec<f64> = slowness.iter().map(|s| s * lasts).collect();
        let share = |w: &u8| f64::from(*w) / total;
        let all: f64 = weights.iter().zip(&lasts).map(|(w, l)| share(w) * l).sum();
        let arrivals = mean * weights.len() as f64 / all;
        let connections = weights.iter().zip(&lasts);
        Self {
            weights: weights.to_vec(),
            connections: connections.map(|(w, l)| arrivals * share(w) * l).collect(),
            lasts,
            arrivals,
            told: Schedule::default(),
            controller: Controller::default(),
            changes: 0,
        }
    }

    fn nodes(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.weights.len() as u16
    }

    /// From one look to the next.
    fn step(&mut self) {
        let weight = |(w, node): (&u8, u16)| f64::from(*w) * f64::from(self.told.factor(node));
        let weights: Vec<f64> = self.weights.iter().zip(self.nodes()).map(weight).collect();
        let total: f64 = weights.iter().sum();
        let all = self.connections.iter_mut().zip(&self.lasts).zip(&weights);
        for ((c, lasts), w) in all {
            // The exact answer of a server whose connections end with a constant hazard.
            let settled = self.arrivals * w / total * lasts;
            *c = settled + (*c - settled) * (-1.0 / lasts).exp();
        }
        let one = |((node, weight), c): ((u16, &u8), &f64)| Load {
            node,
            weight: *weight,
            connections: c.round() as u32,
        };
        let all = self.nodes().zip(&self.weights).zip(&self.connections);
        let loads: Vec<Load> = all.map(one).collect();
        if let Some(factors) = self.controller.look(&loads, &self.told) {
            let counter = self.told.stamp.counter + 1;
            self.told = Schedule::new(stamp(1, counter, 1), factors);
            self.changes += 1;
        }
    }

    /// The highest load by weight over the lowest.
    fn spread(&self) -> f64 {
        let all = self.connections.iter().zip(&self.weights);
        let load: Vec<f64> = all.map(|(c, w)| c / f64::from(*w)).collect();
        let most = load.iter().copied().fold(f64::MIN, f64::max);
        most / load.iter().copied().fold(f64::MAX, f64::min)
    }
}

/// The spread of loads that are all within the band, seen with [`FEW`] connections more.
fn spread_in_band(mean: f64) -> f64 {
    let (up, down) = ((BAND + WORTH).exp(), (-BAND - WORTH).exp());
    ((mean + FEW) * up - FEW) / ((mean + FEW) * down - FEW)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_spread_of_loads_shrinks_into_the_band_and_stays(
        servers in proptest::collection::vec((10u8..=100, 1.0f64..5.0), 2..12),
        lasts in prop_oneof![0.05f64..1.0, 1.0f64..20.0, 20.0f64..300.0],
        mean in 200.0f64..5_000.0,
    ) {
        let (weights, slowness): (Vec<u8>, Vec<f64>) = servers.into_iter().unzip();
        let mut s = Servers::new(&weights, &slowness, lasts, mean);
        let start = s.spread();
        // By weight, loads count less where the weight is small: the loosest bound.
        let heaviest = f64::from(*weights.iter().max().unwrap());
        let average = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / weights.len() as f64;
        let within = spread_in_band(mean * average / heaviest);
        let settle = 600 + (lasts * 30.0) as usize;
        for _ in 0..settle {
            s.step();
        }
        let (settled, changes) = (s.spread(), s.changes);
        prop_assert!(settled <= within.max(1.01), "{start} became {settled}, not {within}: {:?}", s.told);
        // It stays, and nothing swings.
        let before = s.told.clone();
        for _ in 0..settle {
            s.step();
            prop_assert!(s.spread() <= within.max(1.01) * 1.02, "{} again", s.spread());
            for node in s.nodes() {
                let (was, is) = (before.factor(node), s.told.factor(node));
                let swing = (f64::from(was) / f64::from(is)).ln().abs();
                prop_assert!(swing <= 3.0 * WORTH, "node {node}: {was} became {is}");
            }
        }
        let more = s.changes - changes;
        prop_assert!(more as usize <= s.weights.len() + 1, "{more} changes");
    }
}

#[test]
fn equal_servers_are_left_alone() {
    for lasts in [0.1, 5.0, 100.0] {
        let mut s = Servers::new(&[100, 50, 10], &[1.0; 3], lasts, 500.0);
        (0..500).for_each(|_| s.step());
        assert_eq!((s.changes, s.told.clone()), (0, Schedule::default()));
    }
}

#[test]
fn a_few_connections_are_no_load() {
    let mut s = Servers::new(&[100, 100], &[1.0, 5.0], 1.0, 4.0);
    (0..500).for_each(|_| s.step());
    assert_eq!(s.changes, 0, "{:?}", s.connections);
}

#[test]
fn a_member_never_starves_and_comes_back() {
    // Fifty times as slow: more than factors can say.
    let mut s = Servers::new(&[100; 4], &[1.0, 1.0, 1.0, 50.0], 1.0, 1000.0);
    let mut before = FULL;
    for _ in 0..400 {
        s.step();
        let now = s.told.factor(4);
        let least = f64::from(before) * (-STEP - WORTH).exp();
        assert!(f64::from(now) >= least - 1.0, "from {before} to {now}");
        before = now;
    }
    let highest = (f64::from(LEAST) * WORTH.exp()) as u16;
    assert!((LEAST..=highest).contains(&before), "{before}");
    s.lasts[3] = 1.0;
    let recovered = (1..1000).find(|_| {
        s.step();
        s.told.factor(4) > 700
    });
    assert!(recovered.is_some(), "{:?}", s.told);
}

#[test]
fn a_new_member_is_not_flooded() {
    let mut s = Servers::new(&[100; 4], &[1.0; 4], 60.0, 1000.0);
    s.connections[3] = 0.0;
    let mut most: f64 = 0.0;
    for _ in 0..600 {
        s.step();
        let factors: Vec<f64> = s.nodes().map(|n| f64::from(s.told.factor(n))).collect();
        most = most.max(factors[3] / factors.iter().sum::<f64>());
    }
    assert!(most < 0.5, "its share was {most}");
    assert!(s.spread() < spread_in_band(1000.0), "{}", s.spread());
}

#[test]
fn who_takes_over_begins_where_the_one_before_stood() {
    let mut s = Servers::new(&[100; 3], &[1.0, 1.0, 3.0], 2.0, 500.0);
    (0..300).for_each(|_| s.step());
    let before = s.told.clone();
    assert!(before.factor(3) < 600, "{before:?}");
    s.controller = Controller::default();
    (0..100).for_each(|_| s.step());
    for node in s.nodes() {
        let (was, is) = (
            f64::from(before.factor(node)),
            f64::from(s.told.factor(node)),
        );
        assert!(
            (was / is).ln().abs() <= 0.1,
            "node {node}: {was} became {is}"
        );
    }
}

#[test]
fn who_is_away_keeps_its_factor() {
    let mut controller = Controller::default();
    let told = Schedule::new(stamp(1, 1, 1), [(9, 300)]);
    let load = |node, connections| Load {
        node,
        weight: 100,
        connections,
    };
    let found = (0..10).find_map(|_| controller.look(&[load(1, 100), load(2, 900)], &told));
    let factors = found.expect("two that differ");
    assert_eq!((factors[&1], factors[&9]), (FULL, 300));
    assert!(factors[&2] < FULL);
}
