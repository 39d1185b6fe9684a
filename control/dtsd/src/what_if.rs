//! `GET /v1/what-if`: which buckets would move if the members changed, by the functions that
//! make the workers' tables.

use crate::admin::{Api, unavailable};
use crate::members::Roster;
use axum::Json;
use axum::extract::{Query, State as From};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dts_core::ownership::{BucketTable, NOBODY};
use dts_membership::{Agreed, Part, State};
use dts_owners::Plan;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Question {
    change: Change,
    node: u16,
    /// Of `weight`, and of `add`, whose default is that of the node's record, else 100.
    weight: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Weight,
    Drain,
    Undrain,
    Standby,
    Add,
    Remove,
}

/// The endpoint.
pub async fn get(From(api): From<Arc<Api>>, Query(question): Query<Question>) -> Response {
    let Some(roster) = api.roster().await else {
        return unavailable();
    };
    let after = match changed(&roster, question) {
        Ok(after) => after,
        Err(why) => return (StatusCode::CONFLICT, why).into_response(),
    };
    let names: Vec<String> = {
        let view = api.local.views.load();
        view.services.iter().map(|s| s.name.clone()).collect()
    };
    let minority = after.minority;
    // Tables of many members take a while.
    let plan = api.plan.clone();
    let compare = move || comparison(&plan, &names, &roster.agreed, &after);
    match tokio::task::spawn_blocking(compare).await {
        Ok(services) => Json(json!({ "minority": minority, "services": services })).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// What the members would agree on.
fn changed(roster: &Roster, q: Question) -> Result<Agreed, String> {
    let mut agreed = roster.agreed.clone();
    let node = q.node;
    if q.weight.is_some_and(|w| w > 100) {
        return Err("a weight is a number from 0 to 100".into());
    }
    let at = agreed.parts.iter().position(|p| p.node == node);
    match (q.change, at) {
        (Change::Add, Some(_)) => return Err(format!("node {node} is there already")),
        (Change::Add, None) => {
            if node == NOBODY {
                return Err("a node's id is 1 or more".into());
            }
            let record = roster.seen(node).and_then(|m| m.record);
            agreed.parts.push(Part {
                node,
                incarnation: 0,
                state: State::Active,
                weight: q.weight.or(record.map(|r| r.weight)).unwrap_or(100),
                health: u64::MAX,
                on_wire: true,
            });
            agreed.parts.sort_unstable_by_key(|p| p.node);
        }
        (_, None) => return Err(format!("node {node} is not there")),
        (Change::Remove, Some(i)) => {
            agreed.parts.remove(i);
        }
        (Change::Weight, Some(i)) => {
            agreed.parts[i].weight = q.weight.ok_or("which weight?")?;
        }
        (Change::Drain, Some(i)) => agreed.parts[i].state = State::Draining,
        (Change::Undrain, Some(i)) => agreed.parts[i].state = State::Active,
        (Change::Standby, Some(i)) => agreed.parts[i].state = State::Standby,
    }
    Ok(agreed)
}

fn comparison(plan: &Plan, names: &[String], before: &Agreed, after: &Agreed) -> Vec<Value> {
    let ((_, old), (_, new)) = (plan.tables(before), plan.tables(after));
    let nodes: BTreeSet<u16> = before
        .parts
        .iter()
        .chain(&after.parts)
        .map(|p| p.node)
        .collect();
    let both = old.iter().zip(&new).zip(names);
    let service = |((old, new), name): ((&Arc<BucketTable>, &Arc<BucketTable>), &String)| {
        compare(name, old, new, &nodes)
    };
    both.map(service).collect()
}

/// A node, or nobody, in JSON.
fn owner(node: u16) -> Option<u16> {
    Some(node).filter(|n| *n != NOBODY)
}

fn compare(name: &str, old: &BucketTable, new: &BucketTable, nodes: &BTreeSet<u16>) -> Value {
    let mut moves: BTreeMap<(u16, u16), usize> = BTreeMap::new();
    for (from, to) in old.owners().iter().zip(new.owners()) {
        if from != to {
            *moves.entry((*from, *to)).or_default() += 1;
        }
    }
    let moved: usize = moves.values().sum();
    let share = |buckets: usize| buckets as f64 / old.len() as f64;
    json!({
        "service": name,
        "buckets": old.len(),
        "moved": moved,
        "share": share(moved),
        "moves": moves.iter().map(|((from, to), n)| json!({
            "from": owner(*from), "to": owner(*to), "buckets": n, "share": share(*n),
        })).collect::<Vec<_>>(),
        "nodes": nodes.iter().map(|n| json!({
            "node": n, "before": old.share(*n), "after": new.share(*n),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::config;
    use std::time::Duration;

    fn roster(nodes: &[u16]) -> Roster {
        let part = |node: &u16| Part {
            node: *node,
            incarnation: 1,
            state: State::Active,
            weight: 100,
            health: u64::MAX,
            on_wire: true,
        };
        Roster {
            members: Vec::new(),
            agreed: Agreed {
                parts: nodes.iter().map(part).collect(),
                minority: false,
                factors: Default::default(),
            },
            superseded: None,
            schedule: Default::default(),
            now: Duration::ZERO,
        }
    }

    fn ask(nodes: &[u16], change: Change, node: u16, weight: Option<u8>) -> Result<Value, String> {
        let question = Question {
            change,
            node,
            weight,
        };
        let roster = roster(nodes);
        let after = changed(&roster, question)?;
        let plan = Plan::of(&config());
        let services = comparison(&plan, &["web".into()], &roster.agreed, &after);
        Ok(services[0].clone())
    }

    fn after(answer: &Value) -> Vec<u64> {
        let nodes = answer["nodes"].as_array().unwrap().iter();
        nodes.map(|n| n["after"].as_u64().unwrap()).collect()
    }

    #[test]
    fn what_a_node_has_goes_to_the_others() {
        for change in [Change::Drain, Change::Remove, Change::Standby] {
            let a = ask(&[1, 2, 3, 4], change, 2, None).unwrap();
            assert_eq!(after(&a)[1], 0, "{change:?}");
            let moves = a["moves"].as_array().unwrap();
            let of_2 = moves.iter().filter(|m| m["from"] == 2);
            let of_2: u64 = of_2.map(|m| m["buckets"].as_u64().unwrap()).sum();
            assert_eq!(of_2, 1024);
            // Little more moves than must.
            let moved = a["moved"].as_u64().unwrap();
            assert!((1024..1200).contains(&moved), "{moved}");
            assert_eq!(after(&a).iter().sum::<u64>(), 4096);
        }
    }

    #[test]
    fn who_comes_gets_its_share_and_nothing_moves_where_nothing_changes() {
        let a = ask(&[1, 2, 3], Change::Add, 9, None).unwrap();
        assert_eq!(after(&a), [1024; 4]);
        let half = ask(&[1], Change::Add, 2, Some(50)).unwrap();
        assert!(after(&half)[1].abs_diff(4096 / 3) <= 1);
        let same = ask(&[1, 2], Change::Undrain, 2, None).unwrap();
        assert_eq!(
            (same["moved"].as_u64(), after(&same)),
            (Some(0), vec![2048; 2])
        );
        assert_eq!(same["moves"], json!([]));
        let light = ask(&[1, 2], Change::Weight, 2, Some(0)).unwrap();
        assert_eq!(after(&light), [4096, 0]);
        let last = ask(&[1], Change::Drain, 1, None).unwrap();
        assert_eq!(last["moves"][0]["to"], Value::Null);
        assert_eq!(last["share"], 1.0);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let why = |change, node, weight| ask(&[1, 2], change, node, weight).unwrap_err();
        assert_eq!(why(Change::Add, 2, None), "node 2 is there already");
        assert_eq!(why(Change::Drain, 3, None), "node 3 is not there");
        assert_eq!(why(Change::Remove, 3, None), "node 3 is not there");
        assert_eq!(why(Change::Weight, 1, None), "which weight?");
        assert!(why(Change::Weight, 1, Some(101)).contains("0 to 100"));
        assert!(why(Change::Add, 0, None).contains("1 or more"));
    }
}
