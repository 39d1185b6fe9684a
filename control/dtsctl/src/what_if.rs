//! `dtsctl what-if`: what share of the buckets a change would move, and where.

use crate::table::{cell, columns};
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write;

/// A change of the members.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Change {
    /// A node has another weight.
    Weight {
        /// The node's id.
        node: u16,
        /// 0 to 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
    },
    /// A node drains.
    Drain {
        /// The node's id.
        node: u16,
    },
    /// A node is active again.
    Undrain {
        /// The node's id.
        node: u16,
    },
    /// A node is on standby.
    Standby {
        /// The node's id.
        node: u16,
    },
    /// A node comes, which need not be configured yet.
    Add {
        /// The node's id.
        node: u16,
        /// 0 to 100; without it that which the node had last, else 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: Option<u8>,
    },
    /// A node dies, or is taken away.
    Remove {
        /// The node's id.
        node: u16,
    },
}

/// What the daemon is asked.
pub fn target(change: Change) -> String {
    let (word, node, weight) = match change {
        Change::Weight { node, weight } => ("weight", node, Some(weight)),
        Change::Drain { node } => ("drain", node, None),
        Change::Undrain { node } => ("undrain", node, None),
        Change::Standby { node } => ("standby", node, None),
        Change::Add { node, weight } => ("add", node, weight),
        Change::Remove { node } => ("remove", node, None),
    };
    let weight = weight.map_or(String::new(), |w| format!("&weight={w}"));
    format!("/v1/what-if?change={word}&node={node}{weight}")
}

fn percent(share: &Value) -> String {
    format!("{:.2} %", 100.0 * share.as_f64().unwrap_or(0.0))
}

fn node(owner: &Value) -> String {
    if owner.is_null() {
        "nobody".into()
    } else {
        format!("node {owner}")
    }
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The answer for people.
pub fn show(answer: &Value) -> String {
    let mut text = String::new();
    if answer["minority"] == true {
        text += "this node is of a minority, which owns nothing whatever its members do\n";
    }
    for service in rows(&answer["services"]) {
        let _ = writeln!(
            text,
            "service {}: {} of {} buckets move, {} of new connections",
            cell(&service["service"]),
            service["moved"],
            service["buckets"],
            percent(&service["share"])
        );
        let moves = rows(&service["moves"]).map(|m| {
            let way = format!("  {} to {}", node(&m["from"]), node(&m["to"]));
            vec![way, cell(&m["buckets"]), percent(&m["share"])]
        });
        text += &columns(&moves.collect::<Vec<_>>());
        let mut shares = vec![["  NODE", "BEFORE", "AFTER"].map(String::from).to_vec()];
        let has = |n: &Value| {
            vec![
                format!("  {}", n["node"]),
                cell(&n["before"]),
                cell(&n["after"]),
            ]
        };
        shares.extend(rows(&service["nodes"]).map(has));
        text += &columns(&shares);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn moves_and_shares_read_well() {
        let text = show(&json!({ "minority": false, "services": [{
            "service": "web", "buckets": 4096, "moved": 1024, "share": 0.25,
            "moves": [{ "from": 2, "to": null, "buckets": 1024, "share": 0.25 }],
            "nodes": [{ "node": 2, "before": 1024, "after": 0 }],
        }]}));
        let expected = "service web: 1024 of 4096 buckets move, 25.00 % of new connections\n  \
                        node 2 to nobody  1024  25.00 %\n  NODE  BEFORE  AFTER\n  2     1024    0\n";
        assert_eq!(text, expected);
        let none = show(&json!({ "minority": true, "services": [] }));
        assert!(none.contains("minority"));
    }

    #[test]
    fn every_change_has_its_question() {
        for (change, question) in [
            (
                Change::Weight { node: 2, weight: 0 },
                "weight&node=2&weight=0",
            ),
            (Change::Drain { node: 3 }, "drain&node=3"),
            (Change::Undrain { node: 3 }, "undrain&node=3"),
            (Change::Standby { node: 3 }, "standby&node=3"),
            (Change::Remove { node: 3 }, "remove&node=3"),
        ] {
            assert_eq!(target(change), format!("/v1/what-if?change={question}"));
        }
        let add = |weight| target(Change::Add { node: 9, weight });
        assert_eq!(add(None), "/v1/what-if?change=add&node=9");
        assert_eq!(add(Some(50)), "/v1/what-if?change=add&node=9&weight=50");
    }
}
