//! Distribution and disruption of the bucket table for 2 to 1,000 nodes, as a Markdown
//! table on standard output and, with a path as argument, as a plot (SVG).

use dts_config::Policy;
use dts_core::ownership::{BucketTable, Share};
use std::fmt::Write as _;

const NODES: [u16; 12] = [2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1000];
const SIZES: [usize; 2] = [4096, 65536];
/// Beyond these, a table of the larger size takes seconds.
const NODES_OF_LARGE: u16 = 128;
/// Weights, in turn, of each mix.
const MIXES: [(&str, &[u32]); 3] = [
    ("equal", &[100]),
    ("100, 50", &[100, 50]),
    ("100, 80, 30, 5", &[100, 80, 30, 5]),
];

struct Row {
    mix: usize,
    buckets: usize,
    nodes: u16,
    /// Most buckets of a member beyond its exact share by weight.
    off: f64,
    /// Buckets moved beyond the ideal, as a share of all: (leaves, joins, drains to
    /// half its weight); the worst of the members tried.
    excess: [f64; 3],
}

fn table(members: &[Share], buckets: usize) -> BucketTable {
    BucketTable::new(
        Policy::FlowHash,
        None,
        members,
        buckets,
        *b"ownership report",
    )
}

fn members(nodes: u16, weights: &[u32]) -> Vec<Share> {
    (1..=nodes)
        .zip(weights.iter().cycle())
        .map(|(node, &weight)| Share { node, weight })
        .collect()
}

fn excess(before: &BucketTable, after: &BucketTable, nodes: u16) -> f64 {
    let moved = (before.owners().iter().zip(after.owners()))
        .filter(|(a, b)| a != b)
        .count();
    let ideal: usize = (1..=nodes + 1)
        .map(|n| before.share(n).saturating_sub(after.share(n)))
        .sum();
    (moved - ideal) as f64 / before.len() as f64
}

fn row(mix: usize, buckets: usize, nodes: u16) -> Row {
    let weights = MIXES[mix].1;
    let m = members(nodes, weights);
    let before = table(&m, buckets);
    let total: u32 = m.iter().map(|m| m.weight).sum();
    let off = m.iter().map(|m| {
        let exact = buckets as f64 * f64::from(m.weight) / f64::from(total);
        (before.share(m.node) as f64 - exact).abs()
    });
    let off = off.fold(0.0, f64::max);
    let worst = |after: &dyn Fn(u16) -> Vec<Share>| {
        let tried = [1, nodes / 2 + 1, nodes];
        let of = |n| excess(&before, &table(&after(n), buckets), nodes);
        tried.into_iter().map(of).fold(0.0, f64::max)
    };
    let without = |n: u16| m.iter().copied().filter(|m| m.node != n).collect();
    let joined = |_: u16| members(nodes + 1, weights);
    let halved = |n: u16| {
        let mut m = m.clone();
        m[usize::from(n) - 1].weight = m[usize::from(n) - 1].weight.div_ceil(2);
        m
    };
    Row {
        mix,
        buckets,
        nodes,
        off,
        excess: [worst(&without), worst(&joined), worst(&halved)],
    }
}

fn plot(rows: &[Row]) -> String {
    let (left, top, width, height) = (60.0, 40.0, 560.0, 240.0);
    let x = |n: u16| left + width * (f64::from(n) / 2.0).ln() / 500f64.ln();
    let y = |share: f64| top + height * (1.0 - share / 0.025);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 810 340\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\" color=\"#777\">\n\
         <title>Buckets that move beyond the ideal, by number of nodes</title>\n",
    );
    for percent in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5] {
        let at = y(percent / 100.0);
        let dash = if percent == 2.0 { "6 3" } else { "1 4" };
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at:.1}h{width}\" stroke=\"currentColor\" stroke-dasharray=\"{dash}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>",
            left - 6.0,
            at + 4.0
        );
    }
    for n in NODES {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>",
            x(n),
            top + height + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"330\" text-anchor=\"middle\">nodes; worst of a node that leaves, joins, or halves its weight</text>",
        left + width / 2.0
    );
    let colours = ["#d33", "#38c", "#2a2"];
    for (i, buckets) in SIZES.iter().enumerate() {
        for (mix, (name, _)) in MIXES.iter().enumerate() {
            let of = rows
                .iter()
                .filter(|r| r.mix == mix && r.buckets == *buckets);
            let points: Vec<String> = of
                .map(|r| {
                    format!(
                        "{:.1},{:.1}",
                        x(r.nodes),
                        y(r.excess.iter().copied().fold(0.0, f64::max))
                    )
                })
                .collect();
            let dash = if i == 0 { "none" } else { "4 3" };
            let line = 60.0 + 20.0 * (i * MIXES.len() + mix) as f64;
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{c}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
                 <path d=\"M632 {line}h20\" stroke=\"{c}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
                 <text x=\"658\" y=\"{}\">{name}; {buckets}</text>",
                points.join(" "),
                line + 4.0,
                c = colours[mix]
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn main() -> std::io::Result<()> {
    let mut rows = Vec::new();
    println!(
        "| Weights | Buckets | Nodes | Off its share, buckets | Leaves | Joins | Halves its weight |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (mix, (name, _)) in MIXES.iter().enumerate() {
        for buckets in SIZES {
            for nodes in NODES
                .into_iter()
                .filter(|&n| buckets == SIZES[0] || n <= NODES_OF_LARGE)
            {
                let r = row(mix, buckets, nodes);
                let [leaves, joins, halves] = r.excess.map(|e| format!("{:.2} %", e * 100.0));
                println!(
                    "| {name} | {buckets} | {nodes} | {:.2} | {leaves} | {joins} | {halves} |",
                    r.off
                );
                rows.push(r);
            }
        }
    }
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, plot(&rows)),
        None => Ok(()),
    }
}
