//! `summary.json`, and the same as a table.

use crate::rounds::median;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One bench. What a bench has beside these fields stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Median over the rounds of ours / peer.
    pub ratio: f64,
    /// The smallest one.
    pub ratio_min: f64,
    /// The largest one.
    pub ratio_max: f64,
    /// Ours: median.
    pub ours: f64,
    /// The peer: median.
    pub peer: f64,
    /// Who that is.
    pub peer_name: String,
    /// What `ours` and `peer` count.
    pub unit: String,
    /// Rounds.
    pub rounds: usize,
    /// Further fields.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Entry {
    /// Of each round's two values.
    #[must_use]
    pub fn of(rounds: &[(f64, f64)], unit: &str, peer_name: &str) -> Self {
        let ratios = || rounds.iter().map(|(ours, peer)| ours / peer);
        Self {
            ratio: median(ratios()),
            ratio_min: ratios().fold(f64::INFINITY, f64::min),
            ratio_max: ratios().fold(f64::NEG_INFINITY, f64::max),
            ours: median(rounds.iter().map(|r| r.0)),
            peer: median(rounds.iter().map(|r| r.1)),
            peer_name: peer_name.to_owned(),
            unit: unit.to_owned(),
            rounds: rounds.len(),
            more: BTreeMap::new(),
        }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// Benches by name.
pub type Summary = BTreeMap<String, Entry>;

/// Reads a summary; an empty one where there is none.
///
/// # Errors
/// There is something else.
pub fn read(path: &Path) -> Result<Summary> {
    if !path.exists() {
        return Ok(Summary::new());
    }
    let text = std::fs::read_to_string(path)?;
    serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// Writes a summary.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, summary: &Summary) -> Result<()> {
    Ok(std::fs::write(
        path,
        serde_json::to_string_pretty(summary)?,
    )?)
}

/// The floors and goals of the ratio, and for `memory` of the bytes.
#[must_use]
pub fn targets(bench: &str) -> Option<(f64, f64)> {
    Some(match bench {
        "translate_in_32k" | "translate_out_32k" => (0.9, 1.2),
        "translate_in_1m" | "translate_out_1m" => (0.75, 1.0),
        "translate_in_10m" | "translate_out_10m" => (0.5, 0.7),
        "scale" => (1.8, 1.95),
        "syn_flood" => (0.9, 0.98),
        "link" => (0.8, 0.95),
        name if name.starts_with("discard") => (0.75, 0.95),
        name if name.starts_with("http") && !name.ends_with("_direct") => (1.0, 1.0),
        _ => return None,
    })
}

/// What the numbers were measured on.
#[must_use]
pub fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

/// A number with three figures and a unit's prefix.
#[must_use]
pub fn short(v: f64) -> String {
    let (v, prefix) = match v.abs() {
        a if a >= 1e9 => (v / 1e9, "G"),
        a if a >= 1e6 => (v / 1e6, "M"),
        a if a >= 1e4 => (v / 1e3, "k"),
        _ => (v, ""),
    };
    let digits = match v.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        _ => 2,
    };
    format!("{v:.digits$}{prefix}")
}

/// The table for people.
#[must_use]
pub fn table(summary: &Summary) -> String {
    let mut text = format!(
        "{:<23} {:>6} {:>13} {:>13} {:>9} {:>9}  {:<8} peer\n",
        "bench", "ratio", "min..max", "floor/goal", "ours", "peer", "unit"
    );
    for (name, e) in summary {
        let want = targets(name).map_or(String::new(), |(floor, goal)| format!("{floor}/{goal}"));
        let spread = format!("{:.2}..{:.2}", e.ratio_min, e.ratio_max);
        text += &format!(
            "{name:<23} {:>6.2} {spread:>13} {want:>13} {:>9} {:>9}  {:<8} {}\n",
            e.ratio,
            short(e.ours),
            short(e.peer),
            e.unit,
            e.peer_name
        );
    }
    for (name, e) in summary {
        if let Some(stages) = e.more.get("cycles_per_frame").and_then(|c| c.as_object()) {
            let stages: Vec<String> = stages
                .iter()
                .map(|(stage, n)| format!("{stage} {:.0}", n.as_f64().unwrap_or(f64::NAN)))
                .collect();
            text += &format!("{name}: cycles per frame: {}\n", stages.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_the_rounds_said() {
        let e = Entry::of(&[(2.0, 4.0), (3.0, 3.0), (8.0, 4.0)], "pps", "x").with("cpu", "y");
        assert_eq!((e.ratio, e.ratio_min, e.ratio_max), (1.0, 0.5, 2.0));
        assert_eq!((e.ours, e.peer, e.rounds), (3.0, 4.0, 3));
        let json = serde_json::to_string(&e).unwrap();
        let again: Entry = serde_json::from_str(&json).unwrap();
        assert_eq!(again.more["cpu"], "y");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(short(0.954), "0.95");
        assert_eq!(short(192.0), "192");
        assert_eq!(short(14_800_000.0), "14.8M");
    }
}
