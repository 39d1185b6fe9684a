//! Client stacks x impairments of the wire x impairments of the link, each cell with
//! one handover per connection, beside direct connections.

use super::bed::{Bed, Load, Measured, Pair};
use super::stats::{Estimate, bootstrap, mean, quartiles};
use crate::capture::Capture;
use crate::impair::{Burst, Cable, Impairment};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// One way of every impaired wire, microseconds.
const DELAY_US: u64 = 25_000;

/// A client's stack.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Timestamps, SACK, window scale, ECN: on or off.
    pub options: [bool; 4],
    /// The socket: `tcp`, `mptcp`, `tfo`.
    pub kind: &'static str,
}

/// What Linux has by default.
pub const USUAL: Client = Client {
    options: [true, true, true, false],
    kind: "tcp",
};

impl Client {
    /// Every combination of the options, then the two other sockets.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let plain = (0..16u8).map(|bits| Self {
            // The usual one first.
            options: [bits & 1 == 0, bits & 2 == 0, bits & 4 == 0, bits & 8 != 0],
            kind: "tcp",
        });
        let others = ["mptcp", "tfo"].map(|kind| Self { kind, ..USUAL });
        plain.chain(others).collect()
    }

    /// What is not as usual.
    #[must_use]
    pub fn name(&self) -> String {
        let mut parts = Vec::new();
        if self.kind != "tcp" {
            parts.push(self.kind);
        }
        for (on, usual, name) in [
            (self.options[0], true, "no-ts"),
            (self.options[1], true, "no-sack"),
            (self.options[2], true, "no-ws"),
            (self.options[3], false, "ecn"),
        ] {
            if on != usual {
                parts.push(name);
            }
        }
        if parts.is_empty() {
            parts.push("usual");
        }
        parts.join(" ")
    }

    fn set(&self, bed: &Bed<'_>) {
        let [timestamps, sack, scaling, ecn] = self.options;
        bed.client(&[
            ("tcp_timestamps", u8::from(timestamps)),
            ("tcp_sack", u8::from(sack)),
            ("tcp_window_scaling", u8::from(scaling)),
            // 1 asks for it, 0 does not even agree to it.
            ("tcp_ecn", u8::from(ecn)),
            // 1: client, 4: data in the SYN without a cookie.
            ("tcp_fastopen", if self.kind == "tfo" { 5 } else { 1 }),
        ]);
    }
}

/// Impairments of the wire, both directions alike.
#[must_use]
pub fn wires() -> Vec<(&'static str, Impairment)> {
    let delayed = Impairment {
        delay_us: DELAY_US,
        ..Impairment::default()
    };
    vec![
        ("none", Impairment::default()),
        (
            "25 ms +- 5",
            Impairment {
                jitter_us: 5_000,
                ..delayed.clone()
            },
        ),
        (
            "loss 1 %",
            Impairment {
                loss: 0.01,
                ..delayed.clone()
            },
        ),
        (
            "reorder 5 %",
            Impairment {
                reorder: 0.05,
                ..delayed.clone()
            },
        ),
        (
            "duplicate 1 %",
            Impairment {
                duplicate: 0.01,
                ..delayed.clone()
            },
        ),
        (
            "corrupt 0.1 %",
            Impairment {
                corrupt: 0.001,
                ..delayed.clone()
            },
        ),
        (
            "burst loss",
            Impairment {
                burst: Some(Burst {
                    to_bad: 0.005,
                    to_good: 0.3,
                    bad_loss: 1.0,
                    good_loss: 0.0,
                }),
                ..delayed
            },
        ),
    ]
}

/// Impairments of the source's link, both directions alike.
#[must_use]
pub fn links() -> Vec<(&'static str, Impairment)> {
    vec![
        ("none", Impairment::default()),
        (
            "1 ms, loss 1 %",
            Impairment {
                delay_us: 1_000,
                loss: 0.01,
                ..Impairment::default()
            },
        ),
    ]
}

/// A cell of the matrix.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The client's stack.
    pub client: Client,
    /// The wire.
    pub wire: (&'static str, Impairment),
    /// The link.
    pub link: (&'static str, Impairment),
    /// The servers' congestion control.
    pub cc: &'static str,
}

/// How much of what a cell's connections carry.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Pairs in a cell.
    pub pairs: usize,
    /// Connections at once.
    pub parallel: usize,
    /// Confidence of the intervals that a first look is judged by.
    pub confidence: f64,
}

/// What one side of a cell showed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// Frames sent again, per connection, the mean.
    pub again: f64,
    /// Of these by the client.
    pub again_up: f64,
    /// Needlessly, either way.
    pub needless: f64,
    /// Frames, per connection: of the client's, and to it.
    pub frames: [f64; 2],
    /// Completion time, milliseconds: quartiles.
    pub total_ms: [f64; 3],
    /// From the request to the first byte of the answer: quartiles.
    pub first_byte_ms: [f64; 3],
}

/// What a cell showed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Result {
    /// Client stack, wire, link, congestion control.
    pub client: String,
    /// The wire's impairment.
    pub wire: String,
    /// The link's impairment.
    pub link: String,
    /// The servers' congestion control.
    pub cc: String,
    /// Pairs of connections.
    pub pairs: usize,
    /// Connections with an error or an unequal hash.
    pub faults: Vec<String>,
    /// Anomalies in the capture of the unimpaired cell, if one was taken.
    pub capture: Option<String>,
    /// Through the cluster.
    pub service: Side,
    /// Direct.
    pub direct: Side,
    /// What the handover itself took, milliseconds: quartiles, by the source's record.
    pub handover_ms: [f64; 3],
    /// Retransmissions per connection: service - direct.
    pub again_more: Estimate,
    /// Retransmissions: service / direct, where direct has any.
    pub again_ratio: Option<Estimate>,
    /// Completion time: service / direct, the geometric mean over pairs.
    pub time_ratio: Estimate,
    /// The same after the time of each connection's handover has been taken off.
    pub net_ratio: Estimate,
    /// The load average of the last minute.
    pub load: f64,
    /// The relay's lateness, microseconds: median, 99th percentile.
    pub late_us: [u64; 2],
    /// What a first look showed that made a second one necessary.
    pub first_look: Option<String>,
    /// `ok`, or why not.
    pub verdict: String,
}

impl Result {
    /// What tells cells apart.
    #[must_use]
    pub fn key(&self) -> [&str; 4] {
        [&self.client, &self.wire, &self.link, &self.cc]
    }
}

/// The load average of the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or(f64::NAN)
}

fn side<'a>(all: impl Iterator<Item = &'a Measured> + Clone) -> Side {
    let each = |of: &dyn Fn(&Measured) -> f64| -> Vec<f64> { all.clone().map(of).collect() };
    Side {
        again: mean(&each(&|m| m.again() as f64)),
        again_up: mean(&each(&|m| (m.flow.out.again + m.flow.out.syn_again) as f64)),
        frames: [
            mean(&each(&|m| m.flow.out.frames as f64)),
            mean(&each(&|m| m.flow.back.frames as f64)),
        ],
        needless: mean(&each(&|m| {
            (m.flow.out.needless + m.flow.back.needless) as f64
        })),
        total_ms: quartiles(each(&|m| m.asked.total_ms)),
        first_byte_ms: quartiles(each(&|m| m.asked.first_byte_ms)),
    }
}

/// The bounds of what a cell may show.
fn judge(result: &Result, impaired: bool) -> String {
    let mut wrong = Vec::new();
    if !result.faults.is_empty() {
        let (n, first) = (result.faults.len(), &result.faults[0]);
        wrong.push(format!("{n} connections failed: {first}"));
    }
    if let Some(capture) = &result.capture {
        wrong.push(format!("the capture is not clean: {capture}"));
    }
    if impaired && result.again_more.low > 0.0 {
        wrong.push(format!(
            "{:.2} retransmissions per connection more than direct (at least {:.2})",
            result.again_more.value, result.again_more.low
        ));
    }
    if impaired && result.net_ratio.low > 1.0 {
        wrong.push(format!(
            "{:.3} of the direct completion time (at least {:.3})",
            result.net_ratio.value, result.net_ratio.low
        ));
    }
    if wrong.is_empty() {
        "ok".into()
    } else {
        wrong.join("; ")
    }
}

/// Measures a cell once.
fn look(bed: &mut Bed<'_>, cell: &Cell, seed: u64, pairs: usize, effort: Effort) -> Result {
    let cables = [
        ("wire", Cable::both(&cell.wire.1)),
        ("link1", Cable::both(&cell.link.1)),
    ];
    // Without a delay many at once wait for a core, and not for the wire: handovers then
    // come near their deadline, which is another test's affair.
    let parallel = if cell.wire.0 == "none" {
        effort.parallel.min(4)
    } else {
        effort.parallel
    };
    let load = Load {
        pairs,
        parallel,
        kind: cell.client.kind,
        up: 64 << 10,
        down: 256 << 10,
    };
    let pairs = bed.measure(seed, &cables, &load);
    let report = bed.rig().report("wire");
    let handovers: HashMap<u16, f64> = bed
        .lab()
        .handovers(1)
        .into_iter()
        .rev()
        .filter_map(|h| {
            let port = h.client.rsplit_once(':')?.1.parse().ok()?;
            Some((port, h.duration_us as f64 / 1e3))
        })
        .collect();
    let handover = |p: &Pair| handovers.get(&p.service.asked.port).copied();
    let mut faults: Vec<String> = Vec::new();
    for p in &pairs {
        // With what the nodes say of its handover.
        faults.extend(p.service.fault().map(|fault| {
            let record = bed.lab().handover_of_port(p.service.asked.port);
            format!("{fault}; {record:?}")
        }));
        faults.extend(p.direct.fault());
        if handover(p).is_none() {
            faults.push(format!("port {}: no handover", p.service.asked.port));
        }
    }
    // Only whole pairs have times to compare; what failed is counted as a fault.
    let whole: Vec<&Pair> = pairs
        .iter()
        .filter(|p| p.service.asked.error.is_empty() && p.direct.asked.error.is_empty())
        .collect();
    let mut result = Result {
        client: cell.client.name(),
        wire: cell.wire.0.into(),
        link: cell.link.0.into(),
        cc: cell.cc.into(),
        pairs: pairs.len(),
        faults,
        load: load_average(),
        late_us: [report.late_p50_us, report.late_p99_us],
        ..Result::default()
    };
    if whole.is_empty() {
        return result;
    }
    result.service = side(whole.iter().map(|p| &p.service));
    result.direct = side(whole.iter().map(|p| &p.direct));
    result.handover_ms = quartiles(whole.iter().filter_map(|p| handover(p)));
    let again: Vec<(f64, f64)> = whole
        .iter()
        .map(|p| (p.service.again() as f64, p.direct.again() as f64))
        .collect();
    let sum = |s: &[(f64, f64)]| s.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    result.again_more = bootstrap(&again, effort.confidence, |s| {
        let (service, direct) = sum(s);
        (service - direct) / s.len() as f64
    });
    if sum(&again).1 > 0.0 {
        result.again_ratio = Some(bootstrap(&again, effort.confidence, |s| {
            let (service, direct) = sum(s);
            // A resample may have drawn none of the few.
            service / direct.max(1.0)
        }));
    }
    let ratio = |off: &dyn Fn(&Pair) -> f64| {
        let logs: Vec<f64> = whole
            .iter()
            .map(|p| ((p.service.asked.total_ms - off(p)) / p.direct.asked.total_ms).ln())
            .collect();
        bootstrap(&logs, effort.confidence, |s| mean(s).exp())
    };
    result.time_ratio = ratio(&|_| 0.0);
    result.net_ratio = ratio(&|p| handover(p).unwrap_or(0.0));
    result
}

/// Measures and judges a cell. Intervals miss the truth now and then, and there are
/// many cells: one that seems to be above direct is measured again, with three times
/// the pairs, another seed and intervals of 99 %, and it is the second look alone that
/// is judged. What is really above shows more clearly then.
pub fn run(bed: &mut Bed<'_>, cell: &Cell, seed: u64, effort: Effort) -> Result {
    cell.client.set(bed);
    let impaired = cell.wire.0 != "none";
    let mut result = look(bed, cell, seed, effort.pairs, effort);
    result.verdict = judge(&result, impaired);
    if result.verdict != "ok" && result.faults.is_empty() {
        let again = Effort {
            confidence: 0.99,
            ..effort
        };
        let first = std::mem::take(&mut result.verdict);
        result = look(
            bed,
            cell,
            seed.wrapping_add(1 << 32),
            effort.pairs * 3,
            again,
        );
        result.verdict = judge(&result, impaired);
        result.first_look = Some(first);
    }
    if !impaired && cell.client.kind != "tfo" {
        result.capture = clean(bed, cell, seed);
        result.verdict = judge(&result, impaired);
    }
    result
}

/// The capture of connections one after the other, without any impairment of the wire:
/// `None` if there is nothing that a client could notice.
fn clean(bed: &mut Bed<'_>, cell: &Cell, seed: u64) -> Option<String> {
    let load = Load {
        pairs: 30,
        parallel: 1,
        kind: cell.client.kind,
        up: 500,
        down: 12 << 10,
    };
    let lab = bed.lab();
    let cables = [("link1", Cable::both(&cell.link.1))];
    let (path, pairs) = lab.capture("client", "wire0", "clean", || {
        bed.measure(seed, &cables, &load)
    });
    let fault = pairs
        .iter()
        .find_map(|p| p.service.fault().or_else(|| p.direct.fault()));
    // The direct ones are Linux's own affair: on a busy machine it now and then repeats an
    // ACK within microseconds, or probes for a tail that is only late.
    let mut capture = Capture::read_of(lab, &path, "tcp.port == 80");
    let noticed = !capture.anomalies.is_empty() || !capture.resets.is_empty();
    if noticed {
        // The next cell writes to the same file.
        let name = format!("unclean {} {} {seed}.pcap", cell.client.name(), cell.cc);
        let kept = path.with_file_name(name.replace(' ', "-"));
        if std::fs::rename(&path, &kept).is_ok() {
            capture.path = kept;
        }
    }
    fault.or_else(|| noticed.then(|| capture.to_string()))
}

/// The table's head.
pub const HEAD: &str = "| Client | Wire | Link | Servers | Pairs | Sent again: DTS, direct | Ratio (95 %) | \
Time, ms: DTS, direct | Ratio (95 %) | Without the handover | Verdict |\n\
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// A line of the table.
#[must_use]
pub fn line(r: &Result) -> String {
    let range = |e: &Estimate| format!("{:.3} ({:.3} - {:.3})", e.value, e.low, e.high);
    let again = r.again_ratio.as_ref().map_or("-".into(), &range);
    format!(
        "| {} | {} | {} | {} | {} | {:.2}, {:.2} | {again} | {:.0}, {:.0} | {} | {} | {}{} |",
        r.client,
        r.wire,
        r.link,
        r.cc,
        r.pairs,
        r.service.again,
        r.direct.again,
        r.service.total_ms[1],
        r.direct.total_ms[1],
        range(&r.time_ratio),
        range(&r.net_ratio),
        r.verdict,
        if r.first_look.is_some() {
            " (second look)"
        } else {
            ""
        }
    )
}
