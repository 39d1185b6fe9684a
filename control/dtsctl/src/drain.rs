//! Waits for the end of a draining.

use crate::client;
use anyhow::{Context, bail};
use serde_json::Value;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The last connection has ended.
    Over,
    /// The time is over: what remains, for the operator.
    Remaining(String),
}

/// Waits until the last connection of `node` has ended, as the daemon at `socket` sees it.
///
/// # Errors
/// The daemon does not answer; the node is dead, or does not drain any more.
pub fn wait(socket: &Path, node: u16, timeout: Option<Duration>) -> anyhow::Result<End> {
    let start = Instant::now();
    loop {
        let answer = client::get(socket, "/v1/nodes")?;
        let is_late = timeout.is_some_and(|t| start.elapsed() >= t);
        if let Some(end) = judge(&answer, node, is_late)? {
            return Ok(end);
        }
        sleep(PAUSE);
    }
}

/// What an answer means for the wait; `None` to go on.
fn judge(answer: &Value, node: u16, is_late: bool) -> anyhow::Result<Option<End>> {
    let nodes = answer["nodes"].as_array().context("no list of nodes")?;
    let is_it = |n: &&Value| n["id"] == node;
    let found = nodes.iter().find(is_it).context("no such node")?;
    let connections = &found["connections"];
    match (found["member"].as_str(), found["state"].as_str()) {
        // It has drained itself and ended.
        (Some("left"), _) => Ok(Some(End::Over)),
        (Some("alive" | "suspect"), Some("draining")) => {
            if found["drained"] == true {
                return Ok(Some(End::Over));
            }
            let remaining = || End::Remaining(format!("node {node} has {connections} connections"));
            Ok(is_late.then(remaining))
        }
        (Some("alive" | "suspect"), Some(state)) => bail!("node {node} is {state} now"),
        (member, _) => bail!("node {node} is {}", member.unwrap_or("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(member: &str, state: &str, drained: bool) -> Value {
        json!({ "nodes": [
            { "id": 1, "member": "alive", "state": "active", "drained": false },
            { "id": 2, "member": member, "state": state, "drained": drained, "connections": 7 },
        ] })
    }

    #[test]
    fn a_wait_ends_with_the_last_connection_or_says_what_remains() {
        let at = |member, state, drained, is_late| {
            judge(&node(member, state, drained), 2, is_late).map_err(|e| e.to_string())
        };
        assert_eq!(at("alive", "draining", false, false), Ok(None));
        assert_eq!(at("suspect", "draining", false, false), Ok(None));
        assert_eq!(at("alive", "draining", true, false), Ok(Some(End::Over)));
        assert_eq!(at("left", "left", false, false), Ok(Some(End::Over)));
        let remaining = End::Remaining("node 2 has 7 connections".into());
        assert_eq!(at("alive", "draining", false, true), Ok(Some(remaining)));
        assert_eq!(
            at("alive", "active", false, false),
            Err("node 2 is active now".into())
        );
        assert_eq!(
            at("dead", "draining", false, false),
            Err("node 2 is dead".into())
        );
        assert!(judge(&node("alive", "draining", true), 9, false).is_err());
    }
}
