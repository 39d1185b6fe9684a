//! All benches: what `make bench` runs, in which order, and for how long.

use crate::report::{self, Entry, Summary};
use crate::rounds::Plan;
use crate::traffic::{self, Traffic, Way};
use crate::{handover, link, syn_flood};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The flows of the sizes in the benches' names.
const SMALL: u32 = 32_768;
const MILLION: u32 = 1 << 20;
const TEN_MILLION: u32 = 10_000_000;

/// What a bench has to work with.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// A directory for its files.
    pub scratch: &'a Path,
    /// How long it measures.
    pub plan: Plan,
    /// Only entries whose names begin with this are wanted.
    pub only: &'a str,
}

/// One bench, or several that share their set-up.
#[derive(Debug)]
pub struct Bench {
    /// Its entry's name, or what the names of its entries begin with.
    pub name: &'static str,
    /// Seconds that it takes, set-up and all, with five rounds of 1.5 s each side.
    pub seconds: u64,
    run: fn(&Self, &Place<'_>) -> Result<Summary>,
}

impl Bench {
    /// True if one of its entries may have a name that begins with `only`.
    #[must_use]
    pub fn is_wanted(&self, only: &str) -> bool {
        self.name.starts_with(only) || only.starts_with(self.name)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Something that was to be measured did not work.
    pub fn run(&self, place: &Place<'_>) -> Result<Summary> {
        let start = Instant::now();
        let mut summary = (self.run)(self, place)?;
        summary.retain(|name, _| name.starts_with(place.only));
        let took = start.elapsed().as_secs();
        for entry in summary.values_mut() {
            *entry = entry.clone().with("bench_seconds", took);
        }
        Ok(summary)
    }

    fn one(&self, entry: Entry) -> Result<Summary> {
        Ok([(self.name.to_owned(), entry)].into())
    }
}

/// A comparison with `dpdk-testpmd`.
const fn traffic(name: &'static str, seconds: u64) -> Bench {
    Bench {
        name,
        seconds,
        run: |b, p| b.one(of_name(b.name)?.run(p.scratch, &p.plan)?),
    }
}

/// What a bench's name says of its frames and flows.
fn of_name(name: &str) -> Result<Traffic> {
    let (way, size) = name.rsplit_once('_').context("no size in the name")?;
    if way == "cluster" {
        let t = Traffic::new(Way::Share, MILLION, SMALL);
        return Ok(t.in_cluster_of(size.parse()?));
    }
    let active = match size {
        "32k" => SMALL,
        "1m" => MILLION,
        "10m" => TEN_MILLION,
        other => bail!("{other} is no size"),
    };
    let way = match way {
        "discard" => Way::Discard,
        "translate_in" => Way::In,
        "translate_out" => Way::Out,
        other => bail!("{other} is no way of a frame"),
    };
    Ok(Traffic::new(way, active.max(MILLION), active))
}

/// All of them, the important ones first. Together they take no longer than 14
/// minutes; a test holds them to it.
pub const BENCHES: &[Bench] = &[
    traffic("discard_32k", 30),
    traffic("translate_in_32k", 25),
    traffic("translate_out_32k", 25),
    traffic("translate_in_1m", 50),
    traffic("translate_out_1m", 45),
    Bench {
        name: "link",
        seconds: 30,
        run: |b, p| b.one(link::run(MILLION, SMALL, &p.plan)?),
    },
    Bench {
        name: "syn_flood",
        seconds: 30,
        run: |b, p| b.one(syn_flood::run(MILLION, &p.plan)?),
    },
    Bench {
        name: "scale",
        seconds: 35,
        run: |b, p| b.one(Traffic::new(Way::In, MILLION, SMALL).scale(p.scratch, &p.plan)?),
    },
    Bench {
        name: "handover",
        seconds: 5,
        run: |b, p| b.one(handover::run(&p.plan)?),
    },
    Bench {
        name: "http",
        seconds: 200,
        run: http,
    },
    Bench {
        name: "memory",
        seconds: 40,
        run: |b, _| b.one(traffic::memory(TEN_MILLION)?),
    },
    traffic("translate_in_10m", 95),
    traffic("translate_out_10m", 95),
    traffic("cluster_2", 20),
    traffic("cluster_4", 20),
    traffic("cluster_8", 20),
    traffic("cluster_16", 20),
    traffic("cluster_32", 20),
    traffic("cluster_64", 20),
];

/// The bench of whole requests in the lab, a program of its own, with DTS as `make build`
/// has built it.
fn http(bench: &Bench, place: &Place<'_>) -> Result<Summary> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("http/run");
    let out = place.scratch.join("http.json");
    // Rows are known by their first two words; the third is the peer.
    let row: Vec<&str> = place.only.splitn(3, '_').take(2).collect();
    let mut command = Command::new(&program);
    command.arg(&out).arg(bench.seconds.to_string());
    if place.only.len() > bench.name.len() {
        command.arg(row.join("_"));
    }
    // Its table would stand amid ours.
    let ended = command
        .output()
        .with_context(|| format!("{}", program.display()))?;
    eprint!("{}", String::from_utf8_lossy(&ended.stdout));
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{} ended with {}: {said}", program.display(), ended.status);
    }
    let mut summary = report::read(&out)?;
    for entry in summary.values_mut() {
        *entry = entry
            .clone()
            .with("target_cpu", "x86-64")
            .with("resident", 0)
            .with("active", "a connection per request, or kept ones")
            .with("lookups", "hits at owner and server, misses elsewhere");
    }
    Ok(summary)
}

/// True if a bench of so many seconds can begin now.
#[must_use]
pub fn is_time_for(bench: &Bench, spent: Duration, limit: Duration) -> bool {
    spent + Duration::from_secs(bench.seconds) <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_takes_14_minutes_at_most() {
        let all: u64 = BENCHES.iter().map(|b| b.seconds).sum();
        assert!(all <= 14 * 60, "{all} s");
    }

    #[test]
    fn names_say_what_is_measured() {
        let t = of_name("translate_in_10m").unwrap();
        assert_eq!(
            (t.way, t.resident, t.active),
            (Way::In, TEN_MILLION, TEN_MILLION)
        );
        let t = of_name("discard_32k").unwrap();
        assert_eq!(
            (t.way, t.resident, t.active),
            (Way::Discard, MILLION, SMALL)
        );
        let t = of_name("cluster_64").unwrap();
        assert_eq!((t.way, t.members), (Way::Share, 64));
        assert!(of_name("discard_33k").is_err());
    }

    #[test]
    fn what_is_wanted_is_found() {
        let wanted = |only: &str| -> Vec<&str> {
            let all = BENCHES.iter().filter(|b| b.is_wanted(only));
            all.map(|b| b.name).collect()
        };
        assert_eq!(wanted("link"), ["link"]);
        assert_eq!(wanted("http_small_nginx"), ["http"]);
        assert_eq!(wanted("translate_out").len(), 3);
        assert_eq!(wanted("").len(), BENCHES.len());
    }

    #[test]
    fn what_would_end_too_late_does_not_begin() {
        let (bench, limit) = (&BENCHES[0], Duration::from_secs(100));
        let last = limit - Duration::from_secs(bench.seconds);
        assert!(is_time_for(bench, last, limit));
        assert!(!is_time_for(bench, last + Duration::from_secs(1), limit));
    }
}
