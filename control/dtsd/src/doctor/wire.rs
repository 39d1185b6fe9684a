//! Whether the members hear each other on the wire, as this node finds by their hellos.

use super::{Check, or_ok};
use dts_membership::Agreed;

/// Judges who of the members is on the wire with node `own`; `hellos`: they are looked for.
pub(super) fn checks(agreed: &Agreed, own: u16, hellos: bool) -> Vec<Check> {
    const NAME: &str = "wire";
    if !hellos {
        let reason = "peers.hello_ms is 0: nobody says hello on the wire";
        return vec![Check::not_checked(NAME, reason)];
    }
    let others = || agreed.parts.iter().filter(|p| p.node != own);
    let off: Vec<u16> = others().filter(|p| !p.on_wire).map(|p| p.node).collect();
    let findings = if !off.is_empty() && off.len() == others().count() {
        let found = "this node hears no other member on the wire, or none hears it";
        let todo = "where the others hear each other: look at this node's wire port, cable and VLAN. \
                    Where nobody hears anybody: the switch has learned cluster.mac at some port and gives \
                    its frames to that one alone (dts_layer2_faults_total says of a frame from there), \
                    or does not flood unknown addresses";
        vec![Check::fault(NAME, found, todo)]
    } else {
        let one = |node: &u16| {
            let found = format!("node {node} and this node do not hear each other on the wire");
            let todo = "ask the other members: those that nobody hears have a wire port, cable or VLAN \
                        to look at; where the members fall into parts, the switches between them";
            Check::fault(NAME, found, todo)
        };
        off.iter().map(one).collect()
    };
    let heard = format!(
        "{} members hear each other on the wire",
        others().count() + 1
    );
    or_ok(findings, Check::ok(NAME, heard))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use dts_membership::{Part, State};

    fn verdicts(on_wire: &[bool], hellos: bool) -> Vec<Verdict> {
        let part = |(node, &on_wire): (u16, &bool)| Part {
            node,
            incarnation: 1,
            state: State::Active,
            weight: 100,
            health: u64::MAX,
            on_wire,
        };
        let agreed = Agreed {
            parts: (1..).zip(on_wire).map(part).collect(),
            ..Agreed::default()
        };
        let checks = checks(&agreed, 1, hellos);
        checks.iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn who_is_not_heard_is_a_fault() {
        assert_eq!(verdicts(&[true; 3], true), [Verdict::Ok]);
        assert_eq!(verdicts(&[true], true), [Verdict::Ok]);
        let two = verdicts(&[true, false, true, false], true);
        assert_eq!(two, [Verdict::Fault; 2]);
        // One finding where it is this node's own, or the switch's.
        assert_eq!(verdicts(&[true, false, false], true), [Verdict::Fault]);
        assert_eq!(verdicts(&[true; 3], false), [Verdict::NotChecked]);
    }
}
