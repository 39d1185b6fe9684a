//! `dtsctl explain`: who owns a flow and why, and what each member knows of it.

use crate::table::{cell, columns};
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;

/// What the daemon is asked.
pub fn target(client: SocketAddr, vip: SocketAddr) -> String {
    format!("/v1/explain?client={client}&vip={vip}")
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Where a flow came from and went, in a cell.
fn neighbours(fcb: &Value) -> String {
    let part = |word: &str, field: &str| {
        let node = &fcb[field];
        (!node.is_null()).then(|| format!("{word} {node}"))
    };
    let parts: Vec<String> = [part("from", "from"), part("to", "to")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() {
        "-".into()
    } else {
        parts.join(", ")
    }
}

/// The answer for people.
pub fn show(e: &Value) -> String {
    let owner = match e["owner"].as_u64() {
        Some(node) => format!("node {node}"),
        None => "nobody".into(),
    };
    let mut text = columns(&[
        vec![
            "flow".into(),
            format!("{} to {}", cell(&e["client"]), cell(&e["vip"])),
        ],
        vec![
            "service".into(),
            format!("{}, policy {}", cell(&e["service"]), cell(&e["policy"])),
        ],
        vec![
            "bucket".into(),
            format!("{} of {}", cell(&e["bucket"]), cell(&e["buckets"])),
        ],
        vec!["epoch".into(), cell(&e["epoch"])],
        vec!["owner".into(), owner],
        vec!["because".into(), cell(&e["why"])],
    ]);
    if e["agreed"] == false {
        text += "the members work by different views: see EPOCH\n";
    }
    text.push('\n');
    let heads = |titles: &[&str]| titles.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let mut shares = vec![heads(&["NODE", "BUCKETS", "BECAUSE"])];
    for s in rows(&e["shares"]) {
        shares.push(vec![
            cell(&s["node"]),
            cell(&s["buckets"]),
            cell(&s["reason"]),
        ]);
    }
    text += &columns(&shares);
    text.push('\n');
    let titles = [
        "NODE",
        "FCB",
        "ROLE",
        "HANDED OVER",
        "AGE MS",
        "IDLE MS",
        "OWNER",
        "EPOCH",
    ];
    let mut members = vec![heads(&titles)];
    let mut silent = String::new();
    for m in rows(&e["members"]) {
        if m["answer"] != "ok" {
            let _ = writeln!(
                silent,
                "node {} does not say: {}",
                m["node"],
                cell(&m["answer"])
            );
            continue;
        }
        let fcb = &m["fcb"];
        members.push(vec![
            cell(&m["node"]),
            cell(&fcb["state"]),
            cell(&fcb["role"]),
            neighbours(fcb),
            cell(&fcb["age_ms"]),
            cell(&fcb["idle_ms"]),
            cell(&m["owner"]),
            cell(&m["epoch"]),
        ]);
    }
    text + &columns(&members) + &silent
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_both_families_are_asked_for() {
        let at = |text: &str| text.parse().unwrap();
        let asked = target(at("[2001:db8::9]:4000"), at("10.0.0.1:80"));
        assert_eq!(
            asked,
            "/v1/explain?client=[2001:db8::9]:4000&vip=10.0.0.1:80"
        );
    }

    #[test]
    fn a_handed_over_flow_reads_well() {
        let text = show(&json!({
            "client": "10.0.0.9:4000", "vip": "10.0.0.1:80", "service": "web", "policy": "flow-hash",
            "bucket": 77, "buckets": 4096, "epoch": "0a", "agreed": false, "owner": 1,
            "why": "node 1 has 2048 of 4096 buckets, by weight 100 of 200",
            "shares": [{ "node": 3, "buckets": 0, "reason": "it is draining" }],
            "members": [
                { "node": 1, "answer": "ok", "owner": 1, "epoch": "0a", "fcb":
                    { "state": "tombstone", "role": "former", "from": null, "to": 2, "age_ms": 5, "idle_ms": 4 } },
                { "node": 2, "answer": "ok", "owner": 1, "epoch": "0b", "fcb": null },
                { "node": 4, "answer": "it is dead" },
            ],
        }));
        for part in [
            "bucket   77 of 4096",
            "because  node 1 has 2048",
            "different views",
            "3     0        it is draining",
            "1     tombstone  former  to 2         5       4        1      0a",
            "2     -          -       -            -       -        1      0b",
            "node 4 does not say: it is dead",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(show(&json!({ "owner": null })).contains("owner    nobody"));
    }
}
