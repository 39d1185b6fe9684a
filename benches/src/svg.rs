//! The summary as pictures: ratios beside floors and goals, and how cost grows with
//! flows, workers and nodes.

use crate::report::{Entry, Summary, targets};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 26.0;

/// Each bench's ratio with its spread, floor and goal, as bars.
#[must_use]
pub fn ratios(summary: &Summary) -> String {
    let rows: Vec<_> = summary
        .iter()
        .filter_map(|(name, e)| targets(name).map(|t| (name, e, t)))
        .collect();
    let top = rows
        .iter()
        .map(|(_, e, (_, goal))| e.ratio_max.max(*goal))
        .fold(1.0, f64::max)
        * 1.1;
    let x = |v: f64| LEFT + v / top * (WIDTH - LEFT - 20.0);
    let mut body = String::new();
    for (i, (name, e, (floor, goal))) in rows.iter().enumerate() {
        let y = 40.0 + i as f64 * ROW;
        body += &text(LEFT - 8.0, y + 13.0, "end", name);
        let colour = match e.ratio {
            r if r >= *goal => "#2c7d4f",
            r if r >= *floor => "#7aa5c9",
            _ => "#c0533f",
        };
        body += &rect(LEFT, y, x(e.ratio) - LEFT, ROW - 10.0, colour);
        body += &line(x(e.ratio_min), y + 8.0, x(e.ratio_max), y + 8.0, "#222");
        body += &line(x(*floor), y - 2.0, x(*floor), y + 18.0, "#c0533f");
        body += &line(x(*goal), y - 2.0, x(*goal), y + 18.0, "#2c7d4f");
    }
    let title = "ours / peer: bar median, black line spread, red floor, green goal";
    picture(40.0 + rows.len() as f64 * ROW + 20.0, title, &body)
}

/// One line of a picture: its colour, whether it is dashed, and a value for each place
/// on the axis that was measured.
struct Line {
    name: String,
    colour: &'static str,
    dashed: bool,
    values: Vec<Option<f64>>,
}

const COLOURS: [&str; 2] = ["#24618e", "#2c7d4f"];

/// Nanoseconds per frame by active flows: ours and the peer, for each direction.
#[must_use]
pub fn growth(summary: &Summary) -> Option<String> {
    const SIZES: [&str; 3] = ["32k", "1m", "10m"];
    let mut lines = Vec::new();
    for (bench, colour) in ["translate_in", "translate_out"].into_iter().zip(COLOURS) {
        let entries = || SIZES.map(|size| summary.get(&format!("{bench}_{size}")));
        lines.extend(both(bench, colour, entries().into_iter(), |v| 1e9 / v));
    }
    let axis = SIZES.map(|size| format!("{size} active flows"));
    let title = "ns per frame, one core, by active flows: whole line ours, dashed the peer";
    curves(title, &axis, &lines)
}

/// The ratio by the cluster's size, whose frames all come to each node: sizes are measured
/// minutes apart, so that their absolute numbers do not compare.
#[must_use]
pub fn cluster(summary: &Summary) -> Option<String> {
    const SIZES: [u16; 6] = [2, 4, 8, 16, 32, 64];
    let entries = SIZES.map(|n| summary.get(&format!("cluster_{n}")));
    let line = |name: &str, dashed, value: fn(&Entry) -> f64| Line {
        name: name.into(),
        colour: COLOURS[0],
        dashed,
        values: entries.map(|e| e.map(value)).into(),
    };
    let lines = [
        line("median", false, |e| e.ratio),
        line("smallest", true, |e| e.ratio_min),
        line("largest", true, |e| e.ratio_max),
    ];
    let axis = SIZES.map(|n| format!("{n} nodes"));
    let title = "ours / testpmd macswap by nodes of the cluster, each owning as much";
    curves(title, &axis, &lines)
}

/// Frames per second by workers, each with a core and a queue of its own.
#[must_use]
pub fn workers(summary: &Summary) -> Option<String> {
    let e = summary.get("scale")?;
    let line = |name: &str, dashed, values: [f64; 2]| Line {
        name: name.into(),
        colour: COLOURS[0],
        dashed,
        values: values.map(|v| Some(v / 1e6)).into(),
    };
    let lines = [
        line("translate_in", false, [e.peer, e.ours]),
        line("twice the first", true, [e.peer, 2.0 * e.peer]),
    ];
    let axis = ["1 worker", "2 workers"].map(str::to_owned);
    curves("million frames per second by workers", &axis, &lines)
}

/// All pictures that the summary has numbers for, by the names of their files.
#[must_use]
pub fn all(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut pictures = vec![("ratios.svg", ratios(summary))];
    for (name, picture) in [
        ("growth.svg", growth(summary)),
        ("cluster.svg", cluster(summary)),
        ("workers.svg", workers(summary)),
    ] {
        pictures.extend(picture.map(|p| (name, p)));
    }
    pictures
}

/// Ours and the peer's of the same entries.
fn both<'a>(
    name: &str,
    colour: &'static str,
    entries: impl Iterator<Item = Option<&'a Entry>> + Clone,
    value: impl Fn(f64) -> f64,
) -> [Line; 2] {
    [false, true].map(|peer| Line {
        name: format!("{name}{}", if peer { ", peer" } else { "" }),
        colour,
        dashed: peer,
        values: entries
            .clone()
            .map(|e| e.map(|e| value(if peer { e.peer } else { e.ours })))
            .collect(),
    })
}

/// Lines over the places of an axis, from 0 up; nothing where there are no numbers.
fn curves(title: &str, axis: &[String], lines: &[Line]) -> Option<String> {
    let (height, foot) = (360.0, 310.0);
    let values = lines.iter().flat_map(|l| l.values.iter().flatten());
    let top = values.copied().reduce(f64::max)? * 1.15;
    let step = (WIDTH - LEFT - 80.0) / (axis.len().max(2) - 1) as f64;
    let x = |i: usize| LEFT + i as f64 * step;
    let y = |v: f64| foot - v / top * (foot - 50.0);
    let mut body = String::new();
    for (i, place) in axis.iter().enumerate() {
        body += &text(x(i), foot + 20.0, "middle", place);
    }
    for (k, l) in lines.iter().enumerate() {
        let points: Vec<(f64, f64, f64)> = (l.values.iter().enumerate())
            .filter_map(|(i, v)| v.map(|v| (x(i), y(v), v)))
            .collect();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y, _)| format!("{x:.1},{y:.1}"))
            .collect();
        let (colour, dash) = (l.colour, if l.dashed { "6 4" } else { "" });
        let _ = writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\"/>",
            path.join(" ")
        );
        for (x, y, v) in points {
            let digits = match v {
                v if v < 1.0 => 2,
                v if v < 10.0 => 1,
                _ => 0,
            };
            body += &text(x + 6.0, y - 6.0, "start", &format!("{v:.digits$}"));
        }
        let at = 50.0 + k as f64 * 20.0;
        let _ = writeln!(
            body,
            "<line x1=\"10\" y1=\"{at}\" x2=\"30\" y2=\"{at}\" stroke=\"{colour}\" \
             stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>"
        );
        body += &text(36.0, at + 4.0, "start", &l.name);
    }
    Some(picture(height, title, &body))
}

fn picture(height: f64, title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}{body}</svg>\n",
        text(12.0, 20.0, "start", title)
    )
}

fn text(x: f64, y: f64, anchor: &str, what: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>\n")
}

fn rect(x: f64, y: f64, w: f64, h: f64, fill: &str) -> String {
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{fill}\"/>\n"
    )
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, stroke: &str) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
         stroke=\"{stroke}\" stroke-width=\"2\"/>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_of_what_was_measured() {
        let mut summary = Summary::new();
        assert_eq!(all(&summary).len(), 1);
        let entry = Entry::of(&[(2e7, 4e7)], "frames/s", "x");
        for name in ["cluster_2", "cluster_64", "scale", "translate_in_1m"] {
            summary.insert(name.into(), entry.clone());
        }
        let pictures = all(&summary);
        assert_eq!(pictures.len(), 4);
        // 50 ns of ours and 25 of the peer, at one place of the axis.
        let (_, growth) = &pictures[1];
        assert_eq!(growth.matches(">50<").count(), 1);
        assert_eq!(growth.matches(">25<").count(), 1);
        // Median and spread of the ratio, at both ends.
        let (_, cluster) = &pictures[2];
        assert_eq!(cluster.matches(">0.50<").count(), 6);
        assert_eq!(cluster.matches("<polyline").count(), 3);
    }
}
