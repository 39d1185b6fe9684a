//! The cluster as it is seen from here: who is there, and whether all nodes are alike where
//! they must be.

use super::{Check, Told, or_ok};
use crate::ask::{Count, Facts};
use crate::members::Roster;
use dts_membership::{Liveness, Record, Seen, Standing, State};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

/// Clocks may differ by this much, microseconds.
const CLOCK: u64 = 1_000_000;
/// Faults of layer 2 that were last seen so long ago are over, seconds.
const RECENT: u32 = 60;

/// What is known of the members.
pub(super) struct Look<'a> {
    /// This node's id.
    pub own: u16,
    /// Names of the services, in the order of the configuration.
    pub services: Vec<String>,
    pub roster: &'a Roster,
    /// What each member answered, by id.
    pub told: &'a [(u16, Told)],
}

fn is_there(m: &Seen) -> bool {
    matches!(m.liveness, Liveness::Alive | Liveness::Suspect)
}

/// The epochs of the members that are there, each with its nodes.
pub(super) fn epochs(roster: &Roster) -> BTreeMap<u64, Vec<u16>> {
    let mut epochs: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for m in roster.members.iter().filter(|m| is_there(m)) {
        if let Some(r) = m.record {
            epochs.entry(r.epoch).or_default().push(m.peer.node);
        }
    }
    epochs
}

/// `nodes 1, 2` or `node 3`.
fn list(nodes: &[u16]) -> String {
    let ids: Vec<String> = nodes.iter().map(u16::to_string).collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", ids.join(", "))
}

/// `1.2 on nodes 1, 2; 1.3 on node 3`, where values differ.
fn differing<T: Ord + Display>(values: impl IntoIterator<Item = (u16, T)>) -> Option<String> {
    let mut by: BTreeMap<T, Vec<u16>> = BTreeMap::new();
    for (node, value) in values {
        by.entry(value).or_default().push(node);
    }
    let differ = by.len() > 1;
    let parts = by
        .iter()
        .map(|(v, nodes)| format!("{v} on {}", list(nodes)));
    differ.then(|| parts.collect::<Vec<_>>().join("; "))
}

impl Look<'_> {
    /// Every check but that of refused messages.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.start()];
        checks.extend(self.liveness());
        checks.extend(self.answers());
        checks.extend(self.alike());
        checks.extend(self.tcp());
        checks.push(self.clock());
        checks.push(self.views());
        checks.extend(self.minority());
        checks.extend(self.services());
        checks.extend(self.layer2());
        checks
    }

    /// What each member that answered tells of itself.
    pub(super) fn facts(&self) -> impl Iterator<Item = (u16, &Facts)> {
        self.told.iter().filter_map(|(node, told)| match told {
            Told::Facts { facts, .. } => Some((*node, facts)),
            _ => None,
        })
    }

    /// The member with this link address.
    pub(super) fn member_at(&self, link: IpAddr) -> Option<&Seen> {
        self.roster.members.iter().find(|m| m.peer.link == link)
    }

    fn records(&self) -> impl Iterator<Item = (u16, Record)> {
        let there = self.roster.members.iter().filter(|m| is_there(m));
        there.filter_map(|m| Some((m.peer.node, m.record?)))
    }

    /// Whether others know of a later start of this node.
    fn start(&self) -> Check {
        const NAME: &str = "start";
        let Some(later) = self.roster.superseded else {
            return Check::ok(NAME, "nobody knows of a later start of this node");
        };
        let own = self.roster.seen(self.own).and_then(|m| m.record);
        let by = later.saturating_sub(own.map_or(0, |r| r.incarnation)) as f64 / 1e6;
        let found = format!(
            "other members know of a start of this node that is {by:.1} s later: its clock was set back. They \
             refuse what it says, so it owns nothing and hands nothing over to them"
        );
        Check::fault(
            NAME,
            found,
            "set the clock right, and start dtsd anew once it has passed the time of that start; or start the \
             dtsd of the others anew",
        )
    }

    fn liveness(&self) -> Vec<Check> {
        const NAME: &str = "members";
        let finding = |m: &Seen| {
            let (node, link) = (m.peer.node, m.peer.link);
            let found = format!("node {node} ({link}) is {}", m.liveness.name());
            match m.liveness {
                Liveness::Alive => None,
                Liveness::Suspect => {
                    let todo = "look at the link, and whether its cores are overloaded";
                    Some(Check::warning(NAME, found, todo))
                }
                Liveness::Left => {
                    let todo = "start its dtsd, or take it out of cluster.members on all nodes";
                    Some(Check::warning(NAME, found, todo))
                }
                Liveness::Unknown | Liveness::Dead => {
                    let todo = "is its dtsd running, is it reachable by the link (UDP peers.port), and does a \
                                refused message below come from it?";
                    Some(Check::fault(NAME, found, todo))
                }
            }
        };
        let members = &self.roster.members;
        let findings = members.iter().filter_map(finding).collect();
        or_ok(
            findings,
            Check::ok(NAME, format!("all {} are there", members.len())),
        )
    }

    fn answers(&self) -> Vec<Check> {
        const NAME: &str = "answers";
        let finding = |(node, told): &(u16, Told)| match told {
            Told::Facts { .. } | Told::NotThere => None,
            Told::Unclear => Some(Check::warning(
                NAME,
                format!("node {node} does not understand what it was asked"),
                "install the same version of dtsd on all nodes",
            )),
            Told::NoAnswer => Some(Check::warning(
                NAME,
                format!("node {node} is there and does not answer"),
                "ask `dtsctl doctor` there; is its version an older one?",
            )),
        };
        let findings = self.told.iter().filter_map(finding).collect();
        or_ok(findings, Check::ok(NAME, "who is there answers"))
    }

    /// Software, configuration and keys.
    fn alike(&self) -> [Check; 3] {
        let versions = self.records().map(|(n, r)| (n, r.version.to_string()));
        let version = match differing(versions) {
            None => Check::ok("version", "all nodes run the same"),
            Some(found) => Check::warning(
                "version",
                found,
                "install the same version of dtsd on all nodes",
            ),
        };
        let digests = self
            .records()
            .map(|(n, r)| (n, format!("{:016x}", r.config)));
        let config = match differing(digests) {
            None => Check::ok("configuration", "all nodes agree on what they must"),
            Some(found) => Check::fault(
                "configuration",
                format!("its digest differs: {found}"),
                "make cluster (name, mac, buckets, policy, members, bucket key) and services (vip, port, \
                 application_port, policy) the same on all nodes, or nodes own the same connections",
            ),
        };
        let signing = self
            .facts()
            .filter_map(|(n, f)| Some((n, *f.keys.first()?)));
        let key = match differing(signing) {
            None => Check::ok("cluster_key", "all nodes sign with the same key"),
            Some(found) => Check::warning(
                "cluster_key",
                format!("a rotation is under way: they sign with key {found}"),
                "finish it: the same cluster.key everywhere, then no cluster.other_key",
            ),
        };
        [version, config, key]
    }

    fn tcp(&self) -> [Check; 2] {
        let yes = |b: bool| if b { "1" } else { "0" };
        let options = |r: &Record| {
            let scales = r.tcp.window_shift.is_some();
            format!(
                "timestamps={} sack={} window_scaling={}",
                yes(r.tcp.timestamps),
                yes(r.tcp.sack),
                yes(scales)
            )
        };
        let todo = "set net.ipv4.tcp_timestamps, tcp_sack and tcp_window_scaling alike on all nodes and start \
                    dtsd anew: a stack that does not agree to what a client was promised refuses its connection";
        let options = match differing(self.records().map(|(n, r)| (n, options(&r)))) {
            None => Check::ok("tcp_options", "the stacks of all nodes agree to the same"),
            Some(found) => Check::fault("tcp_options", found, todo),
        };
        let rmem = |f: &Facts| {
            let numbers: Vec<String> = f.tcp_rmem.iter().map(u64::to_string).collect();
            numbers.join(" ")
        };
        let rmem = match differing(self.facts().map(|(n, f)| (n, rmem(f)))) {
            None => Check::ok("tcp_rmem", "all nodes have the same"),
            Some(found) => Check::warning(
                "tcp_rmem",
                found,
                "set net.ipv4.tcp_rmem alike on all nodes: windows and their shift follow from it",
            ),
        };
        [options, rmem]
    }

    fn clock(&self) -> Check {
        const NAME: &str = "clock";
        let mut most = 0;
        let mut off = Vec::new();
        for (node, told) in self.told {
            let Told::Facts {
                ahead_us,
                within_us,
                ..
            } = told
            else {
                continue;
            };
            let by = ahead_us.unsigned_abs();
            most = most.max(by);
            if by.saturating_sub(*within_us) > CLOCK {
                let word = if *ahead_us > 0 { "ahead of" } else { "behind" };
                let seconds = by as f64 / 1e6;
                off.push(format!(
                    "node {node}'s is {seconds:.1} s {word} this node's"
                ));
            }
        }
        if off.is_empty() {
            return Check::ok(NAME, format!("all within {:.1} ms", most as f64 / 1e3));
        }
        Check::warning(
            NAME,
            off.join("; "),
            "keep the clocks by NTP or PTP. A node's incarnation is the time of its start and must rise: one \
             whose clock is set back before a start is refused by the others as `replayed`",
        )
    }

    fn views(&self) -> Check {
        let epochs = epochs(self.roster);
        if epochs.len() < 2 {
            return Check::ok("views", "all members work by one view");
        }
        let parts = epochs
            .iter()
            .map(|(e, nodes)| format!("{e:016x} on {}", list(nodes)));
        Check::fault(
            "views",
            format!(
                "the views of the members differ: {}",
                parts.collect::<Vec<_>>().join("; ")
            ),
            "are the configurations alike, and does every node reach every other by the link? Nodes of \
             different views answer the same connections, or none",
        )
    }

    fn minority(&self) -> Vec<Check> {
        const NAME: &str = "minority";
        let in_one = self.facts().filter(|(_, f)| f.minority);
        let findings = in_one.map(|(node, _)| {
            let found = format!(
                "node {node} lost more members at once than it still sees: it owns nothing until \
                 peers.minority_ms are over"
            );
            Check::fault(NAME, found, "mend the link")
        });
        or_ok(findings.collect(), Check::ok(NAME, "no member is in one"))
    }

    fn services(&self) -> [Check; 2] {
        let agreed = &self.roster.agreed;
        let mut orphaned = Vec::new();
        let mut ill = Vec::new();
        for (i, name) in self.services.iter().enumerate() {
            let standing = |m: &Seen| (m.peer.node, agreed.standing(m.peer.node, i));
            let all: Vec<(u16, Standing)> = self.roster.members.iter().map(standing).collect();
            if agreed.shares(i).is_empty() {
                let why = all.iter().map(|(n, s)| format!("node {n}: {}", s.name()));
                orphaned.push(format!("{name} ({})", why.collect::<Vec<_>>().join(", ")));
            }
            let bit = 1 << i.min(63);
            let of = |(n, r): (u16, Record)| (r.health & bit == 0).then_some(n);
            let nodes: Vec<u16> = self.records().filter_map(of).collect();
            if !nodes.is_empty() {
                ill.push(format!("{name} on {}", list(&nodes)));
            }
        }
        let owner = if orphaned.is_empty() {
            Check::ok("owners", "every service has one")
        } else {
            Check::fault(
                "owners",
                format!("nobody takes new connections of {}", orphaned.join("; ")),
                "undrain a member, give one a weight, or mend the application",
            )
        };
        let health = if ill.is_empty() {
            Check::ok("applications", self.resting())
        } else {
            Check::warning(
                "applications",
                format!(
                    "the application of a service fails its check: {}",
                    ill.join("; ")
                ),
                "look at the application there, and at services[].health",
            )
        };
        [owner, health]
    }

    /// Who takes nothing new on purpose.
    fn resting(&self) -> String {
        let state = |(n, r): (u16, Record)| match r.state {
            State::Draining | State::Standby => Some(format!("; node {n} is {}", r.state.name())),
            _ => None,
        };
        let resting: String = self.records().filter_map(state).collect();
        format!("no check fails{resting}")
    }

    fn layer2(&self) -> [Check; 2] {
        let lately = |of: fn(&Facts) -> Count| -> (Vec<u16>, u64) {
            let recent = |c: Count| c.age_s.is_some_and(|age| age <= RECENT);
            let nodes = self.facts().filter(|(_, f)| recent(of(f)));
            (
                nodes.map(|(n, _)| n).collect(),
                self.facts().map(|(_, f)| of(f).count).sum(),
            )
        };
        let check = |name, of, what: &str, todo: &str| match lately(of) {
            (nodes, count) if nodes.is_empty() => Check::ok(
                name,
                format!("none in the last {RECENT} s; {count} since the nodes' start"),
            ),
            (nodes, count) => Check::fault(
                name,
                format!("{} saw {what} ({count} in all)", list(&nodes)),
                todo,
            ),
        };
        [
            check(
                "vip_claims",
                |f| f.vip_conflicts,
                "somebody say that a VIP is elsewhere than at cluster.mac",
                "find who else has a VIP: another cluster with the same one, an address that was left on a \
                 host, or nodes with different cluster.mac",
            ),
            check(
                "cluster_mac",
                |f| f.cluster_mac_sources,
                "frames from cluster.mac, so that a switch learned it and no longer floods",
                "find who sends from that address (a host's bridge or bond, another cluster), end that, and \
                 make the switch forget the address",
            ),
        ]
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
pub(super) mod tests;
