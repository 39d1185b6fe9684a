//! `GET /v1/explain`: who owns a flow and why, and what each member knows of it.

use crate::admin::{Api, unavailable};
use crate::ask::{Answer, Entry, FlowReport, Question};
use crate::members::Roster;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use dts_config::Policy;
use dts_core::key::FlowKey;
use dts_core::ownership::NOBODY;
use dts_core::view::View;
use dts_membership::{Agreed, Liveness, Seen, Standing, WishError};
use dts_owners::Plan;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// The flow that is asked about.
#[derive(Deserialize)]
pub struct Flow {
    client: SocketAddr,
    vip: SocketAddr,
}

/// What a member says of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Report(FlowReport),
    /// There is no such service in its configuration.
    NoService,
    /// Why it says nothing.
    Nothing(String),
}

/// The endpoint.
pub async fn get(State(api): State<Arc<Api>>, Query(flow): Query<Flow>) -> Response {
    let view = api.local.views.load_full();
    let key = FlowKey::new(flow.client, flow.vip);
    let Some(service) = view.service(&key.vip, key.port) else {
        let text = format!("there is no service at {}", flow.vip);
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let Some(roster) = api.roster().await else {
        return unavailable();
    };
    let own = view.node;
    let ask = |node: u16| {
        let (api, roster) = (&api, &roster);
        async move {
            if node == own {
                let (local, roster) = (Arc::clone(&api.local), roster.clone());
                let look = move || local.flow(flow.client, flow.vip, Some(&roster));
                let report = tokio::task::spawn_blocking(look).await;
                return report.ok().flatten().map_or(Said::NoService, Said::Report);
            }
            let question = Question::Flow {
                client: flow.client,
                vip: flow.vip,
            };
            match api.ask(node, &question).await {
                Ok(Answer::Flow(Some(report))) => Said::Report(report),
                Ok(Answer::Flow(None)) => Said::NoService,
                Ok(_) => Said::Nothing("it does not understand the question".into()),
                Err(error) => Said::Nothing(silence(error, roster.seen(node))),
            }
        }
    };
    let nodes: Vec<u16> = roster.members.iter().map(|m| m.peer.node).collect();
    let said = join_all(nodes.iter().map(|n| ask(*n))).await;
    let said: Vec<(u16, Said)> = nodes.into_iter().zip(said).collect();
    Json(explanation(&api.plan, &view, service, &key, &roster, &said)).into_response()
}

/// Why a member says nothing.
fn silence(error: WishError, seen: Option<&Seen>) -> String {
    match (error, seen) {
        (WishError::NotThere, Some(m)) if m.liveness == Liveness::Alive => {
            "it fell silent when it was asked".into()
        }
        (WishError::NotThere, Some(m)) => format!("it is {}", m.liveness.name()),
        (error, _) => error.to_string(),
    }
}

fn explanation(
    plan: &Plan,
    view: &View,
    service: usize,
    key: &FlowKey,
    roster: &Roster,
    said: &[(u16, Said)],
) -> Value {
    let s = &view.services[service];
    let (bucket, owner) = (s.buckets.bucket(key), s.buckets.owner(key));
    let agreed = &roster.agreed;
    let share = |m: &Seen| {
        let node = m.peer.node;
        let standing = agreed.standing(node, service);
        json!({
            "node": node,
            "standing": standing.name(),
            "weight": m.record.map(|r| r.weight),
            "buckets": s.buckets.share(node),
            "reason": reason(standing, m),
        })
    };
    let epochs: Vec<u64> = said
        .iter()
        .filter_map(|(_, s)| match s {
            Said::Report(r) => Some(r.epoch),
            _ => None,
        })
        .collect();
    let policy = plan.policy(service);
    json!({
        "client": key.client(),
        "vip": key.vip(),
        "service": s.name,
        "policy": policy.0.as_str(),
        "bucket": bucket,
        "buckets": s.buckets.len(),
        "epoch": format!("{:016x}", roster.epoch_of(view.node)),
        "agreed": epochs.windows(2).all(|e| e[0] == e[1]),
        "owner": Some(owner).filter(|o| *o != NOBODY),
        "why": why(policy, agreed, service, owner, s.buckets.share(owner), s.buckets.len()),
        "shares": roster.members.iter().map(share).collect::<Vec<_>>(),
        "members": said.iter().map(|(node, s)| member(*node, s)).collect::<Vec<_>>(),
    })
}

/// Why the owner is the owner, in one sentence.
fn why(
    (policy, designated): (Policy, Option<u16>),
    agreed: &Agreed,
    service: usize,
    owner: u16,
    share: usize,
    buckets: usize,
) -> String {
    let shares = match policy {
        Policy::Scheduled => agreed.scheduled(service),
        _ => agreed.shares(service),
    };
    if owner == NOBODY {
        return if agreed.minority {
            "this node is of a minority, which owns nothing: the others answer".into()
        } else {
            "no member can take what is new of this service".into()
        };
    }
    let by_weight = || {
        let total: u32 = shares.iter().map(|s| s.weight).sum();
        match shares.iter().find(|s| s.node == owner) {
            Some(s) => format!(
                "node {owner} has {share} of {buckets} buckets, by weight {} of {total}",
                s.weight
            ),
            // Buckets that are given away are kept for a moment.
            None => {
                format!("node {owner} has given its buckets away and answers until others know")
            }
        }
    };
    match (policy, designated) {
        (Policy::Designated, Some(d)) if d == owner => {
            format!("node {d} is designated and owns every bucket")
        }
        (Policy::Designated, Some(d)) => format!(
            "node {d} is designated and takes nothing on, so that the others share its work: {}",
            by_weight()
        ),
        _ => by_weight(),
    }
}

/// Why a member has a share or none, for people.
fn reason(standing: Standing, m: &Seen) -> String {
    match standing {
        Standing::Shares(weight) => format!("weight {weight}"),
        Standing::Absent if m.liveness == Liveness::Left => "it has said goodbye".into(),
        Standing::Absent => format!("it is {}", m.liveness.name()),
        Standing::Draining => "it is draining".into(),
        Standing::Standby => "it is on standby, and an active member is there".into(),
        Standing::NoWeight => "its weight is 0".into(),
        Standing::Ill => "its application of the service is not well".into(),
        Standing::OffWire => "it and this node do not hear each other on the wire".into(),
        Standing::Minority => "this side is a minority".into(),
    }
}

/// What a node is to a flow, by its FCB.
fn role(state: &str, from: Option<u16>, to: Option<u16>) -> &'static str {
    match (state, from, to) {
        ("half_open" | "intake", ..) => "owner",
        ("handover", _, Some(_)) => "source",
        ("handover", Some(_), None) => "destination",
        ("handover", None, None) => "owner",
        ("served", ..) => "destination",
        _ => "former",
    }
}

fn member(node: u16, said: &Said) -> Value {
    let report = match said {
        Said::Report(report) => report,
        Said::NoService => {
            return json!({ "node": node, "answer": "it has no such service" });
        }
        Said::Nothing(why) => return json!({ "node": node, "answer": why }),
    };
    let mut value = json!({
        "node": node,
        "answer": "ok",
        "epoch": format!("{:016x}", report.epoch),
        "bucket": report.bucket,
        "owner": Some(report.owner).filter(|o| *o != NOBODY),
        "fcb": null,
    });
    match &report.entry {
        Entry::None => {}
        Entry::Silent => value["answer"] = "its data plane does not answer".into(),
        Entry::Fcb {
            state,
            from,
            to,
            age_ms,
            idle_ms,
        } => {
            value["fcb"] = json!({
                "state": state,
                "role": role(state, *from, *to),
                "from": from,
                "to": to,
                "age_ms": age_ms,
                "idle_ms": idle_ms,
            });
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Boot, build, own_record};
    use crate::testkit::{config, config_v6};
    use dts_membership::{Part, Peer, State, TcpCaps};
    use std::time::Duration;

    const HEX: &str = "0000000000000007";

    fn roster(config: &dts_config::Config) -> Roster {
        let boot = Boot {
            incarnation: 1,
            steer_key: [0; 16],
        };
        let seen = |(node, liveness): (u16, Liveness)| {
            let mut record = own_record(config, &boot, [4; 6], TcpCaps::default());
            (record.node, record.epoch) = (node, 7);
            Seen {
                peer: Peer {
                    node,
                    link: [127, 0, 0, node as u8].into(),
                },
                liveness,
                since: Duration::ZERO,
                gone: false,
                generation: 0,
                record: Some(record),
            }
        };
        let members = [(1, Liveness::Alive), (2, Liveness::Dead)];
        Roster {
            members: members.map(seen).into(),
            agreed: Agreed {
                parts: vec![Part {
                    node: 1,
                    incarnation: 1,
                    state: State::Active,
                    weight: 100,
                    health: u64::MAX,
                    on_wire: true,
                }],
                minority: false,
                factors: Default::default(),
            },
            superseded: None,
            schedule: Default::default(),
            now: Duration::ZERO,
        }
    }

    #[test]
    fn an_explanation_has_bucket_owner_and_reasons() {
        for (config, vip) in [
            (config(), "10.77.0.100:80"),
            (config_v6(), "[fd77::100]:80"),
        ] {
            let plan = Plan::of(&config);
            let boot = Boot {
                incarnation: 1,
                steer_key: [0; 16],
            };
            let view = build(&config, boot, [2; 6], [4; 6]);
            let roster = roster(&config);
            let view = dts_owners::next(&view, &plan, &roster.members, &roster.agreed, true);
            let client: SocketAddr = "192.0.2.9:40000".parse().unwrap();
            let key = FlowKey::new(client, vip.parse().unwrap());
            let report = FlowReport {
                epoch: 7,
                bucket: view.services[0].buckets.bucket(&key) as u32,
                owner: 1,
                entry: Entry::Fcb {
                    state: "tombstone".into(),
                    from: None,
                    to: Some(2),
                    age_ms: 9,
                    idle_ms: 8,
                },
            };
            let said = [
                (1, Said::Report(report)),
                (
                    2,
                    Said::Nothing(silence(WishError::NotThere, roster.seen(2))),
                ),
            ];
            let e = explanation(&plan, &view, 0, &key, &roster, &said);
            assert_eq!(e["service"], "web");
            assert_eq!((&e["owner"], &e["epoch"]), (&json!(1), &json!(HEX)));
            let why = "node 1 has 4096 of 4096 buckets, by weight 100 of 100";
            assert_eq!(e["why"], why);
            assert_eq!(e["agreed"], true);
            assert_eq!(e["shares"][1]["standing"], "absent");
            assert_eq!(e["shares"][1]["reason"], "it is dead");
            let fcb = &e["members"][0]["fcb"];
            assert_eq!((&fcb["role"], &fcb["to"]), (&json!("former"), &json!(2)));
            assert_eq!(e["members"][1]["answer"], "it is dead");
        }
    }

    #[test]
    fn every_policy_has_its_reason() {
        let config = config();
        let mut agreed = roster(&config).agreed;
        let designated = (Policy::Designated, Some(1));
        let text = |p, a: &Agreed, owner| why(p, a, 0, owner, 5, 16);
        assert_eq!(
            text(designated, &agreed, 1),
            "node 1 is designated and owns every bucket"
        );
        let other = text((Policy::Designated, Some(2)), &agreed, 1);
        assert!(other.starts_with("node 2 is designated and takes nothing on"));
        assert!(other.ends_with("node 1 has 5 of 16 buckets, by weight 100 of 100"));
        let hash = (Policy::SourceHash, None);
        assert!(text(hash, &agreed, 2).contains("has given its buckets away"));
        agreed.parts[0].state = State::Draining;
        let nobody = "no member can take what is new of this service";
        assert_eq!(text(hash, &agreed, NOBODY), nobody);
        agreed.minority = true;
        assert!(text(hash, &agreed, NOBODY).contains("minority"));
    }

    #[test]
    fn roles_follow_from_state_and_neighbours() {
        for (state, from, to, expected) in [
            ("half_open", None, None, "owner"),
            ("intake", None, None, "owner"),
            ("handover", None, None, "owner"),
            ("handover", None, Some(2), "source"),
            ("handover", Some(1), Some(3), "source"),
            ("handover", Some(1), None, "destination"),
            ("served", Some(1), None, "destination"),
            ("tombstone", Some(1), Some(3), "former"),
        ] {
            assert_eq!(role(state, from, to), expected, "{state} {from:?} {to:?}");
        }
    }
}
