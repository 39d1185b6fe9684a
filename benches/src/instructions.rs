//! Instructions of the data plane's steps, counted by callgrind and compared with a
//! baseline: a guard that the time of day and the load beside it cannot move.
//!
//! A count belongs to a compiler, a target and a profile. The last two must be those of
//! the baseline; another compiler is named beside what it may have caused.

use crate::counted::GATE;
use crate::handover;
use crate::spin::{self, Step};
use crate::traffic::Way;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// By how much a count may differ from the baseline, either way.
pub const TOLERANCE: f64 = 0.05;
/// What renews the baseline.
const RENEW: &str = "make instructions UPDATE=1";
/// Bursts of a step: enough that what happens once does not matter.
const BURSTS: u32 = 200;
/// Handovers of a run.
const HANDOVERS: usize = 500;

/// What is counted.
pub const CASES: [(&str, &str); 6] = [
    ("parse", "headers and options of a frame read"),
    ("lookup", "look ahead of a frame whose FCB is here"),
    ("translate_in", "a frame from a client, all of its way"),
    ("translate_out", "a frame from the stack, all of its way"),
    ("discard", "a frame of another node's flow"),
    ("replay", "a Fast Open handover at its destination"),
];

/// Goes a case's way. Returns how many frames, or handovers, were counted.
///
/// # Errors
/// There is no such case, or a frame does not go where it belongs.
pub fn run(case: &str) -> Result<u64> {
    let step = match case {
        "parse" => Step::Parse,
        "lookup" => Step::Lookup,
        "translate_in" => Step::Whole(Way::In),
        "translate_out" => Step::Whole(Way::Out),
        "discard" => Step::Whole(Way::Discard),
        "replay" => return handover::counted_replays(HANDOVERS),
        other => bail!("{other}: no such case"),
    };
    spin::step(step, BURSTS).map(|spun| spun.frames)
}

/// Counts, and what they belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The compiler, as `rustc --version` says it.
    pub rustc: String,
    /// Architecture, CPU and profile of the program.
    pub target: String,
    /// Instructions per frame or handover, by case.
    pub instructions: BTreeMap<String, f64>,
}

/// What this program was compiled for.
#[must_use]
pub fn target() -> String {
    let cpu = match cfg!(target_feature = "sse4.2") {
        true => "newer CPU than the first",
        false => "any CPU",
    };
    let profile = match cfg!(debug_assertions) {
        true => "with debug assertions",
        false => "release",
    };
    format!("{}, {cpu}, {profile}", std::env::consts::ARCH)
}

/// Counts all cases, each in a process of its own. Files go to `scratch`.
///
/// # Errors
/// There is no valgrind, or a case fails.
pub fn count(scratch: &Path) -> Result<Counts> {
    std::fs::create_dir_all(scratch).with_context(|| format!("{}", scratch.display()))?;
    let mut instructions = BTreeMap::new();
    for (case, _) in CASES {
        instructions.insert(case.to_owned(), count_case(case, scratch)?);
    }
    Ok(Counts {
        rustc: env!("DTS_RUSTC").to_owned(),
        target: target(),
        instructions,
    })
}

fn count_case(case: &str, scratch: &Path) -> Result<f64> {
    let file = scratch.join(format!("{case}.callgrind"));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={GATE}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["--case", case])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // One copy of memcpy and the like, whatever the CPU has.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX,-ERMS,-FSRM")
        .output()
        .context("cannot run valgrind, which deploy/deps.sh installs")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case} under valgrind: {errors}");
    let units: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let text = std::fs::read_to_string(&file)?;
    let total = total(&text).with_context(|| format!("{}: no totals", file.display()))?;
    // An empty count is a gate that callgrind did not find.
    ensure!(total > 0 && units > 0, "{case}: nothing was counted");
    // Tenths of an instruction are noise, and make for a quiet file.
    Ok((total as f64 / units as f64 * 10.0).round() / 10.0)
}

/// The sum that a file of callgrind's ends with.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|l| l.strip_prefix("totals:"));
    line?.trim().parse().ok()
}

/// What comparing gave: a table, and what is wrong.
#[derive(Debug)]
pub struct Verdict {
    /// One line per case.
    pub table: String,
    /// Empty if all is as it was.
    pub faults: Vec<String>,
}

/// Compares `now` with the baseline `then`.
#[must_use]
pub fn compare(then: &Counts, now: &Counts) -> Verdict {
    let mut faults = Vec::new();
    if then.target != now.target {
        faults.push(format!(
            "the baseline is for ({}), this program for ({}): nothing can be said",
            then.target, now.target
        ));
    }
    let mut table = String::new();
    for (case, what) in CASES {
        let (a, b) = (then.instructions.get(case), now.instructions.get(case));
        let (Some(&a), Some(&b)) = (a, b) else {
            faults.push(format!(
                "{case} is not in the baseline; enter it by: {RENEW}"
            ));
            continue;
        };
        let change = b / a - 1.0;
        let percent = change * 100.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{case:<14} {a:>9.1} {b:>9.1} {percent:>+7.1} %  {what}"
        );
        if change.abs() > TOLERANCE {
            let advice = match change < 0.0 {
                true => "better: keep it by",
                false => "worse: find out why, or, if it is meant, accept it by",
            };
            faults.push(format!(
                "{case}: {b:.1} instructions instead of {a:.1} ({percent:+.1} %), {advice}: {RENEW}"
            ));
        }
    }
    if then.rustc != now.rustc {
        let note = format!(
            "the baseline was made by {}, this program by {}: some of the change may be the \
             compiler's",
            then.rustc, now.rustc
        );
        let _ = writeln!(table, "note: {note}");
        if !faults.is_empty() {
            faults.push(note);
        }
    }
    Verdict { table, faults }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: f64) -> Counts {
        Counts {
            rustc: "rustc 1".into(),
            target: target(),
            instructions: CASES.iter().map(|(c, _)| ((*c).to_owned(), of)).collect(),
        }
    }

    #[test]
    fn five_percent_either_way() {
        for (of, right) in [(104.9, true), (95.1, true), (105.1, false), (94.9, false)] {
            let faults = compare(&counts(100.0), &counts(of)).faults;
            assert_eq!(faults.is_empty(), right, "{of}: {faults:?}");
            assert!(faults.iter().all(|f| f.contains(RENEW)), "{faults:?}");
        }
    }

    #[test]
    fn another_compiler_is_named_and_another_target_refused() {
        let then = counts(100.0);
        let mut now = counts(100.0);
        now.rustc = "rustc 2".into();
        let verdict = compare(&then, &now);
        assert!(verdict.faults.is_empty() && verdict.table.contains("rustc 2"));
        now.instructions.insert("parse".into(), 120.0);
        assert!(
            compare(&then, &now)
                .faults
                .iter()
                .any(|f| f.contains("rustc 2"))
        );
        now = counts(100.0);
        now.target = "z80".into();
        assert!(compare(&then, &now).faults[0].contains("z80"));
    }

    #[test]
    fn a_case_without_a_baseline_is_a_fault() {
        let mut then = counts(100.0);
        then.instructions.remove("lookup");
        let faults = compare(&then, &counts(100.0)).faults;
        assert!(
            faults.len() == 1 && faults[0].contains("lookup"),
            "{faults:?}"
        );
    }

    #[test]
    fn totals_are_read() {
        assert_eq!(total("summary: 5\n\ntotals: 12345\n"), Some(12345));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn every_case_goes_its_way() {
        for (case, _) in CASES {
            assert!(run(case).unwrap() > 0, "{case}");
        }
        assert!(run("nothing").is_err());
    }
}
