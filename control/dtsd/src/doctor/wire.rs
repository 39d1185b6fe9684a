//! Whether every member hears the wire, as far as its record says (`wire` in `/v1/nodes`).

use super::{Check, or_ok};
use serde_json::Value;

/// Judges what `/v1/nodes` says of each member: `ok`, `deaf` (it hears nothing of what goes to
/// the cluster's address) or `mute` (nobody hears what it sends).
pub(super) fn checks(nodes: &[Value]) -> Vec<Check> {
    const NAME: &str = "wire";
    let said = |n: &Value| Some((n["id"].as_u64()?, n["wire"].as_str()?.to_owned()));
    let said: Vec<(u64, String)> = nodes.iter().filter_map(said).collect();
    if said.is_empty() {
        return vec![Check::not_checked(
            NAME,
            "no member says whether it hears the wire",
        )];
    }
    let finding = |(node, state): &(u64, String)| {
        let (found, todo) = match state.as_str() {
            "ok" => return None,
            "deaf" => (
                format!("node {node} does not hear what is sent to the cluster's address"),
                "look at its wire port's cable and VLAN; the switch must flood frames to cluster.mac: \
                 no suppression of unknown unicast, no port security, and no entry for that address",
            ),
            "mute" => (
                format!("nobody hears what node {node} sends on the wire"),
                "look at its wire port's cable and VLAN, and for filters of source addresses at the switch",
            ),
            other => {
                let found = format!("node {node} says of the wire: {other}");
                return Some(Check::warning(NAME, found, "see `dtsctl nodes`"));
            }
        };
        Some(Check::fault(NAME, found, todo))
    };
    let findings = said.iter().filter_map(finding).collect();
    let heard = format!("{} members hear the wire and are heard there", said.len());
    or_ok(findings, Check::ok(NAME, heard))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use serde_json::json;

    fn verdicts(wires: &[Value]) -> Vec<Verdict> {
        let node = |(i, w): (usize, &Value)| json!({ "id": i + 1, "wire": w });
        let nodes: Vec<Value> = wires.iter().enumerate().map(node).collect();
        checks(&nodes).iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn what_a_member_does_not_hear_is_a_fault() {
        assert_eq!(verdicts(&[json!("ok"), json!("ok")]), [Verdict::Ok]);
        let faults = verdicts(&[json!("deaf"), json!("ok"), json!("mute")]);
        assert_eq!(faults, [Verdict::Fault; 2]);
        assert_eq!(verdicts(&[json!("odd")]), [Verdict::Warning]);
        assert_eq!(verdicts(&[Value::Null]), [Verdict::NotChecked]);
    }
}
