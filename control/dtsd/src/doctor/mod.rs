//! `GET /v1/doctor`: checks this node, and the cluster as it is seen from here, and says what
//! to do about what is wrong.

mod host;
mod members;
mod refusals;
mod wire;

use crate::admin::Api;
use crate::ask::{Answer, Facts, Question};
use crate::local::clock_us;
use crate::members::Roster;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use dts_membership::WishError;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Views that differ are looked at again after this time: a change takes a moment to reach
/// all members.
const SETTLE: Duration = Duration::from_secs(1);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It could not be checked, or there is nothing to check.
    NotChecked,
    /// It works, and not as well as it could; or it soon may not.
    Warning,
    /// Something does not work because of it.
    Fault,
}

/// One check, or one of its findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    check: &'static str,
    /// How it ended.
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    todo: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            todo: None,
        }
    }

    fn not_checked(check: &'static str, why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::NotChecked,
            ..Self::ok(check, why)
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            todo: Some(todo.into()),
            ..Self::ok(check, found)
        }
    }

    fn fault(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fault,
            ..Self::warning(check, found, todo)
        }
    }
}

/// The findings, or `ok` where there are none.
fn or_ok(findings: Vec<Check>, ok: Check) -> Vec<Check> {
    if findings.is_empty() {
        vec![ok]
    } else {
        findings
    }
}

/// What a member answered to [`Question::Facts`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Facts {
        facts: Facts,
        /// Its clock less this node's, microseconds.
        ahead_us: i64,
        /// How far that may be wrong: half of the time that the answer took.
        within_us: u64,
    },
    /// It answered something else.
    Unclear,
    NotThere,
    NoAnswer,
}

/// The endpoint.
pub async fn get(State(api): State<Arc<Api>>) -> Response {
    let host = {
        let api = Arc::clone(&api);
        let look = move || {
            let ports = (api.source)().map(|s| s.ports);
            let mut checks = host::look(Path::new("/"), &api.config);
            checks.push(host::addresses(&api.config));
            checks.extend(host::ports(ports.as_ref()));
            checks
        };
        tokio::task::spawn_blocking(look).await
    };
    let mut checks = host.unwrap_or_default();
    checks.push(host::rules(&api.config).await);
    match api.roster().await {
        None => checks.push(Check::not_checked(
            "members",
            "this node does not take part in the membership: it has no link address to speak from",
        )),
        Some(roster) => {
            let told = ask_all(&api, &roster).await;
            let roster = settled(&api, roster).await;
            let names = api.config.services.iter().map(|s| s.name.clone()).collect();
            let look = members::Look {
                own: api.config.node.0,
                services: names,
                roster: &roster,
                told: &told,
            };
            checks.extend(look.checks());
            checks.extend(refusals::checks(&look));
            let (own, hellos) = (api.config.node.0, api.config.peers.hello.is_some());
            checks.extend(wire::checks(&roster.agreed, own, hellos));
        }
    }
    let count = |v: Verdict| checks.iter().filter(|c| c.verdict == v).count();
    Json(json!({
        "node": api.config.node.0,
        "faults": count(Verdict::Fault),
        "warnings": count(Verdict::Warning),
        "checks": checks,
    }))
    .into_response()
}

async fn ask_all(api: &Arc<Api>, roster: &Roster) -> Vec<(u16, Told)> {
    let own = api.config.node.0;
    let ask = |node: u16| async move {
        let told = if node == own {
            Told::Facts {
                facts: api.local.facts(Some(roster)),
                ahead_us: 0,
                within_us: 0,
            }
        } else {
            let (start, asked) = (clock_us(), Instant::now());
            let answer = api.ask(node, &Question::Facts).await;
            told(answer, start, asked.elapsed())
        };
        (node, told)
    };
    join_all(roster.members.iter().map(|m| ask(m.peer.node))).await
}

/// Makes a difference of clocks out of an answer that came `took` after `asked_us`, this
/// node's clock when it asked (Cristian, *Probabilistic clock synchronization*, 1989).
fn told(answer: Result<Answer, WishError>, asked_us: u64, took: Duration) -> Told {
    match answer {
        Ok(Answer::Facts(facts)) => {
            let half = u64::try_from(took.as_micros() / 2).unwrap_or(u64::MAX);
            let here = i128::from(asked_us) + i128::from(half);
            let ahead = i128::from(facts.clock_us) - here;
            Told::Facts {
                ahead_us: ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
                within_us: half,
                facts,
            }
        }
        Ok(_) => Told::Unclear,
        Err(WishError::NoSuchNode | WishError::NotThere) => Told::NotThere,
        Err(WishError::NoAnswer) => Told::NoAnswer,
    }
}

/// The members a moment later, if they do not agree now.
async fn settled(api: &Api, roster: Roster) -> Roster {
    if members::epochs(&roster).len() < 2 {
        return roster;
    }
    tokio::time::sleep(SETTLE).await;
    api.roster().await.unwrap_or(roster)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Count;

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_answer() {
        let facts = Facts {
            clock_us: 10_500_000,
            tcp_rmem: Vec::new(),
            keys: Vec::new(),
            minority: false,
            refused: Vec::new(),
            vip_conflicts: Count::default(),
            cluster_mac_sources: Count::default(),
        };
        let answer = Ok(Answer::Facts(facts.clone()));
        let expected = Told::Facts {
            facts,
            ahead_us: 480_000,
            within_us: 20_000,
        };
        assert_eq!(
            told(answer, 10_000_000, Duration::from_millis(40)),
            expected
        );
        let took = Duration::ZERO;
        assert_eq!(told(Ok(Answer::Unclear), 0, took), Told::Unclear);
        assert_eq!(told(Err(WishError::NoAnswer), 0, took), Told::NoAnswer);
        assert_eq!(told(Err(WishError::NotThere), 0, took), Told::NotThere);
    }

    #[test]
    fn verdicts_have_their_words() {
        let check = Check::not_checked("x", "why");
        let json = serde_json::to_value(&check).unwrap();
        let expected =
            json!({ "check": "x", "verdict": "not_checked", "found": "why", "todo": null });
        assert_eq!(json, expected);
        assert!(Verdict::Ok < Verdict::Warning && Verdict::Warning < Verdict::Fault);
    }
}
