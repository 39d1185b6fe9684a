//! Messages of the membership that a node refused: what they mean, and what to do.

use super::members::Look;
use super::{Check, Verdict, or_ok};
use crate::ask::Refusals;
use dts_membership::{Liveness, Refused};
use std::net::IpAddr;

const NAME: &str = "refused_messages";
/// What was refused so lately is still going on, seconds.
const RECENT: u32 = 30;

/// One finding for each node and each reason that goes on.
pub(super) fn checks(look: &Look<'_>) -> Vec<Check> {
    let mut findings = Vec::new();
    let mut old = 0;
    for (node, facts) in look.facts() {
        for r in &facts.refused {
            if r.times.age_s.is_some_and(|age| age <= RECENT) {
                findings.extend(finding(look, node, r));
            } else {
                old += r.times.count;
            }
        }
    }
    let ok = match old {
        0 => "no message of the membership was refused".to_owned(),
        n => format!("none was refused in the last {RECENT} s; {n} before that"),
    };
    or_ok(findings, Check::ok(NAME, ok))
}

fn finding(look: &Look<'_>, node: u16, r: &Refusals) -> Option<Check> {
    let sender = look.member_at(r.from);
    let who = match sender {
        Some(m) => format!("{} (node {})", r.from, m.peer.node),
        None => format!("{} (no member's link address)", r.from),
    };
    let why = r.why()?;
    let heard = sender.is_some_and(|m| matches!(m.liveness, Liveness::Alive | Liveness::Suspect));
    let (verdict, what, todo) = explain(why, heard, sender.is_some(), r.from);
    let count = r.times.count;
    let reason = why.name();
    Some(Check {
        check: NAME,
        verdict,
        found: format!(
            "node {node} refused {count} messages as `{reason}`, the last one from {who}: {what}"
        ),
        todo: Some(todo),
    })
}

/// What a reason means where the sender is otherwise `heard`, has a `member`'s address.
fn explain(
    why: Refused,
    heard: bool,
    member: bool,
    from: IpAddr,
) -> (Verdict, &'static str, String) {
    let text = |t: &str| t.to_owned();
    let (what, todo) = match why {
        Refused::Malformed if member && !heard => (
            "what comes from there is no message of this protocol",
            text("is another program bound to peers.port there, or the link's data damaged?"),
        ),
        // Anybody can send noise, and it does no harm.
        Refused::Malformed => {
            let todo = format!(
                "find out what {from} sends to peers.port; the link should be the nodes' own"
            );
            return (Verdict::Warning, "it is no message of this protocol", todo);
        }
        Refused::Version => (
            "its software speaks another version of the membership protocol",
            text("install the same version of dtsd on all nodes"),
        ),
        Refused::Key => (
            "it signs with a key that this node does not have",
            text(
                "give all nodes the same cluster.key (or cluster.other_key, during a rotation); or another \
                 cluster shares this link: separate them",
            ),
        ),
        Refused::Forged => (
            "its authenticator is wrong: another cluster key of the same number, damage, or an attack",
            text("compare cluster.key on all nodes; look who has that address"),
        ),
        Refused::Stranger => (
            "its id is none of cluster.members here",
            text("make cluster.members the same on all nodes"),
        ),
        Refused::Misdirected => (
            "it is meant for another node: members and link addresses differ between the nodes",
            text("compare id and link of every member in the configurations"),
        ),
        Refused::DuplicateId => (
            "two nodes use one id: this node's own, or one whose configured address is another; or an \
             earlier start of that node still runs",
            text("give every node an id of its own (node, cluster.members), and end a second dtsd"),
        ),
        Refused::Replayed if heard => {
            let what = "it came twice, or late from an earlier start of that node";
            let todo =
                text("if it goes on: look for frames that come twice on the link, or an attack");
            return (Verdict::Warning, what, todo);
        }
        Refused::Replayed => (
            "it is of an earlier start than one that was heard: that node's clock was set back before its \
             dtsd was started",
            text(
                "set that node's clock right, and start its dtsd anew once the clock has passed the time of \
                 the earlier start; or start the dtsd of the others anew",
            ),
        ),
    };
    (Verdict::Fault, what, todo)
}

#[cfg(test)]
mod tests {
    use super::super::members::tests::Cluster;
    use super::*;
    use crate::ask::Count;

    fn refused(why: Refused, age_s: u32, last: u8) -> Refusals {
        let times = Count {
            count: 3,
            age_s: Some(age_s),
        };
        Refusals::new(why, times, [10, 77, 1, last].into())
    }

    fn findings(refused: Vec<Refusals>, dead: Option<u16>) -> Vec<Check> {
        let mut c = Cluster::new();
        c.facts(1).refused = refused;
        if let Some(node) = dead {
            c.seen(node).liveness = Liveness::Dead;
        }
        checks(&c.look())
    }

    #[test]
    fn each_reason_is_explained_with_its_source() {
        for why in Refused::ALL {
            let found = findings(vec![refused(why, 0, 99)], None);
            assert_eq!(found.len(), 1);
            let expected = match why {
                Refused::Malformed => Verdict::Warning,
                _ => Verdict::Fault,
            };
            assert_eq!(found[0].verdict, expected, "{why:?}");
            let text = &found[0].found;
            let start = format!("node 1 refused 3 messages as `{}`", why.name());
            assert!(text.starts_with(&start), "{text}");
            assert!(text.contains("10.77.1.99 (no member's"), "{text}");
            assert!(found[0].todo.as_ref().is_some_and(|t| t.len() > 20));
        }
        let of_member = &findings(vec![refused(Refused::Key, 5, 2)], None)[0];
        assert!(of_member.found.contains("10.77.1.2 (node 2)"));
    }

    #[test]
    fn what_comes_again_is_told_from_a_clock_that_was_set_back() {
        let replayed = || vec![refused(Refused::Replayed, 1, 2)];
        let again = &findings(replayed(), None)[0];
        assert_eq!(again.verdict, Verdict::Warning);
        let back = &findings(replayed(), Some(2))[0];
        assert_eq!(back.verdict, Verdict::Fault);
        assert!(back.found.contains("clock was set back"), "{}", back.found);
    }

    #[test]
    fn what_is_over_is_no_fault() {
        let found = findings(vec![refused(Refused::Key, RECENT + 1, 2)], None);
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Ok));
        assert!(found[0].found.ends_with("3 before that"));
        assert_eq!(findings(Vec::new(), None)[0].verdict, Verdict::Ok);
    }
}
