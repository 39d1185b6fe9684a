//! What the server's stack believes of the round-trip time after a replay, and what it
//! does then, beside a direct connection (PROTOCOL, section 5, rule 5).

use super::bed::{Bed, Load, Measured, Pair, ping};
use super::stats::quartiles;
use crate::impair::{Cable, Impairment, Script};
use serde::{Deserialize, Serialize};

/// The clients' round-trip times, milliseconds.
pub const ROUND_TRIPS_MS: [u64; 3] = [5, 50, 200];

/// One side of a line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Side {
    /// TCP_INFO of the server's socket at the client's close: smoothed round-trip time,
    /// milliseconds, quartiles.
    pub srtt_ms: [f64; 3],
    /// The smallest one.
    pub min_rtt_ms: [f64; 3],
    /// Connections whose smoothed and smallest round-trip times are both within a tenth
    /// of the true one.
    pub within_a_tenth: usize,
    /// Connections on which the server sent something again that was not lost.
    pub spurious: usize,
    /// The first flight of ten segments was lost whole: time until all of it had been
    /// sent again, milliseconds, quartiles.
    pub flight_ms: [f64; 3],
    /// The same for a flight of one segment.
    pub single_ms: [f64; 3],
    /// Connections on which a segment that was overtaken by a tenth of the round trip
    /// was sent again.
    pub overtaken: usize,
}

/// A line: one round-trip time, one kind of replay.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// `fast-open` or `handshake`.
    pub replay: String,
    /// The delay that the relay adds, milliseconds.
    pub delay_ms: u64,
    /// The true round-trip time: the median of pings to the server's own address.
    pub true_ms: f64,
    /// Pairs in each of the four measurements.
    pub pairs: usize,
    /// Through the cluster.
    pub service: Side,
    /// Direct.
    pub direct: Side,
    /// The load average of the last minute.
    pub load: f64,
    /// Connections that failed.
    pub faults: Vec<String>,
}

/// An answer of ten segments or nearly so: one initial window.
const FLIGHT: usize = 13_500;
/// An answer of one segment.
const SINGLE: usize = 500;

/// Measures a line in a lab whose replays are of kind `replay`.
pub fn measure(bed: &mut Bed<'_>, replay: &str, rtt_ms: u64, pairs: usize, seed: u64) -> Line {
    bed.client(&[
        ("tcp_timestamps", 1),
        ("tcp_sack", 1),
        ("tcp_window_scaling", 1),
    ]);
    let way = Impairment {
        delay_us: rtt_ms * 500,
        ..Impairment::default()
    };
    // Short round trips measure the machine if many run at once.
    let parallel = match rtt_ms {
        0..20 => 2,
        20..100 => 8,
        _ => 24,
    };
    let mut line = Line {
        replay: replay.into(),
        delay_ms: rtt_ms,
        pairs,
        ..Line::default()
    };
    let mut look = |bed: &mut Bed<'_>, script: Option<Script>, down: usize| -> Vec<Pair> {
        let cable = Cable {
            out: way.clone(),
            back: Impairment {
                script,
                ..way.clone()
            },
        };
        let load = Load {
            pairs,
            parallel,
            kind: "tcp",
            up: 0,
            down,
        };
        let got = bed.measure(seed, &[("wire", cable)], &load);
        for p in &got {
            line.faults.extend(p.service.fault());
            line.faults.extend(p.direct.fault());
        }
        got
    };
    let plain = look(bed, None, FLIGHT);
    let true_us = ping(bed.lab(), 30, "0.05");
    let flight = look(bed, Some(Script::LoseFlight), FLIGHT);
    let single = look(bed, Some(Script::LoseFlight), SINGLE);
    let script = Script::SecondFirst {
        by_us: rtt_ms * 100,
    };
    let overtaken = look(bed, Some(script), FLIGHT);
    line.true_ms = true_us / 1e3;
    line.load = super::matrix::load_average();
    let side = |pick: fn(&Pair) -> &Measured| {
        let of = |pairs: &[Pair], value: &dyn Fn(&Measured) -> f64| {
            quartiles(pairs.iter().map(|p| value(pick(p))))
        };
        let srtt = |m: &Measured| m.served.as_ref().map_or(0.0, |s| f64::from(s.srtt_us));
        let least = |m: &Measured| m.served.as_ref().map_or(0.0, |s| f64::from(s.min_rtt_us));
        let near = |us: f64| (us - true_us).abs() <= true_us / 10.0;
        let repaired = |m: &Measured| {
            let us = m.flow.back.repaired_us;
            us.map_or(f64::INFINITY, |us| us as f64 / 1e3)
        };
        let count = |pairs: &[Pair], what: &dyn Fn(&Measured) -> bool| {
            pairs.iter().filter(|p| what(pick(p))).count()
        };
        Side {
            srtt_ms: of(&plain, &|m| srtt(m) / 1e3),
            min_rtt_ms: of(&plain, &|m| least(m) / 1e3),
            within_a_tenth: count(&plain, &|m| near(srtt(m)) && near(least(m))),
            spurious: count(&plain, &|m| m.flow.back.again > 0),
            flight_ms: of(&flight, &repaired),
            single_ms: of(&single, &repaired),
            overtaken: count(&overtaken, &|m| m.flow.back.again > 0),
        }
    };
    line.service = side(|p| &p.service);
    line.direct = side(|p| &p.direct);
    line
}

impl Line {
    /// How much longer the repair of a lost first flight takes than directly: the
    /// larger ratio of medians, of ten segments and of one.
    #[must_use]
    pub fn repair_ratio(&self) -> f64 {
        let ratio = |s: [f64; 3], d: [f64; 3]| s[1] / d[1];
        ratio(self.service.flight_ms, self.direct.flight_ms)
            .max(ratio(self.service.single_ms, self.direct.single_ms))
    }

    /// What is not as it must be after a Fast Open replay.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let (mut wrong, s) = (Vec::new(), &self.service);
        if let Some(fault) = self.faults.first() {
            wrong.push(format!("{} connections failed: {fault}", self.faults.len()));
        }
        if s.spurious > 0 {
            wrong.push(format!(
                "{} of {} with a spurious retransmission",
                s.spurious, self.pairs
            ));
        }
        for (name, got) in [("SRTT", s.srtt_ms[1]), ("minimum RTT", s.min_rtt_ms[1])] {
            if (got - self.true_ms).abs() > self.true_ms / 10.0 {
                wrong.push(format!(
                    "{name} {got:.2} ms, the client's is {:.2}",
                    self.true_ms
                ));
            }
        }
        if self.repair_ratio() > 1.5 {
            wrong.push(format!(
                "a lost first flight took {:.2} of direct",
                self.repair_ratio()
            ));
        }
        if s.overtaken > 0 {
            wrong.push(format!(
                "{} of {} repeated what was overtaken",
                s.overtaken, self.pairs
            ));
        }
        wrong
    }
}

/// The table's head.
pub const HEAD: &str = "| Replay | RTT, ms | Way | SRTT, ms | Min. RTT, ms | Both within 10 % | Spurious | \
Flight of 10 lost, repaired in ms | Of 1, ms | Overtaken, sent again |\n\
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// A line's two rows.
#[must_use]
pub fn rows(l: &Line) -> String {
    let row = |way: &str, s: &Side| {
        let range = |q: &[f64; 3]| format!("{:.2} ({:.2} - {:.2})", q[1], q[0], q[2]);
        format!(
            "| {} | {:.2} | {way} | {} | {} | {} of {} | {} | {} | {} | {} |",
            l.replay,
            l.true_ms,
            range(&s.srtt_ms),
            range(&s.min_rtt_ms),
            s.within_a_tenth,
            l.pairs,
            s.spurious,
            range(&s.flight_ms),
            range(&s.single_ms),
            s.overtaken
        )
    };
    format!("{}\n{}", row("DTS", &l.service), row("direct", &l.direct))
}
