//! The summary as pictures: ratios beside floors and goals, and cost by table size.

use crate::report::{Summary, targets};
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

/// Nanoseconds per frame by active flows: ours and the peer, for each direction.
#[must_use]
pub fn growth(summary: &Summary) -> Option<String> {
    const SIZES: [&str; 3] = ["32k", "1m", "10m"];
    const LINES: [(&str, &str); 2] = [("translate_in", "#24618e"), ("translate_out", "#2c7d4f")];
    let (height, foot) = (360.0, 310.0);
    let mut points = Vec::new();
    for (bench, colour) in LINES {
        for (i, size) in SIZES.iter().enumerate() {
            let e = summary.get(&format!("{bench}_{size}"));
            points.extend(e.map(|e| (bench, colour, i, 1e9 / e.ours, 1e9 / e.peer)));
        }
    }
    let top = points.iter().map(|p| p.3.max(p.4)).reduce(f64::max)? * 1.15;
    let x = |i: usize| LEFT + i as f64 * 220.0;
    let y = |ns: f64| foot - ns / top * (foot - 50.0);
    let mut body = String::new();
    for (i, size) in SIZES.iter().enumerate() {
        body += &text(x(i), foot + 20.0, "middle", &format!("{size} active flows"));
    }
    for (k, (bench, colour)) in LINES.into_iter().enumerate() {
        let own: Vec<_> = points.iter().filter(|p| p.0 == bench).collect();
        for (peer, dash) in [(false, ""), (true, "6 4")] {
            let value = |p: &(&str, &str, usize, f64, f64)| if peer { p.4 } else { p.3 };
            let path: Vec<String> = own
                .iter()
                .map(|p| format!("{:.1},{:.1}", x(p.2), y(value(p))))
                .collect();
            let _ = writeln!(
                body,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
                path.join(" ")
            );
            for p in &own {
                let label = format!("{:.0}", value(p));
                body += &text(x(p.2) + 6.0, y(value(p)) - 6.0, "start", &label);
            }
        }
        let _ = writeln!(
            body,
            "<rect x=\"10\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
            50 + k * 20
        );
        body += &text(28.0, 61.0 + k as f64 * 20.0, "start", bench);
    }
    let title = "ns per frame, one core: whole line ours, dashed the peer of the same run";
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
