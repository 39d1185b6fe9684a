//! What follows from the members: who owns new connections, who may be handed some, who is
//! there. The daemon and the simulator make their views by it.
//!
//! [`Plan`] makes the bucket tables of an agreed view, [`next`] the view that workers read,
//! [`Follower`] decides when owners change. There is no thread and no clock here: time is an
//! argument.

use dts_config::{Config, Policy};
use dts_core::mutation::{Mutation, broken};
use dts_core::ownership::{BucketTable, Share};
use dts_core::view::{Member, View};
use dts_membership::{Agreed, Seen, Time};
use dts_proto::block::derive_key;
use std::sync::Arc;
use std::time::Duration;

/// How long a node goes on answering for buckets that it gives away: until the new owners
/// know. Two answers are harmless, none costs the client a second.
pub const OVERLAP: Duration = Duration::from_millis(300);

/// What owners follow from beside the members: equal on all nodes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Buckets of each table, a power of two.
    pub buckets: usize,
    /// The key of their hash.
    pub key: [u8; 16],
    /// Policy and designated node of what is no service's.
    pub general: (Policy, Option<u16>),
    /// The same of each service, in the order of the configuration.
    pub services: Vec<(Policy, Option<u16>)>,
}

/// The tables of a view: the general one and each service's.
pub type Tables = (Arc<BucketTable>, Vec<Arc<BucketTable>>);

impl Plan {
    /// The configuration's.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let cluster = &config.cluster;
        let key = cluster.bucket_key.as_ref().unwrap_or(&cluster.key);
        let id = |n: Option<dts_config::NodeId>| n.map(|n| n.0);
        let services = config.services.iter();
        Self {
            buckets: cluster.buckets as usize,
            key: derive_key(key.as_bytes(), "buckets v1"),
            general: (cluster.policy, id(cluster.designated)),
            services: services.map(|s| (s.policy, id(s.designated))).collect(),
        }
    }

    /// The policy of the service with index `i`, and the designated node.
    #[must_use]
    pub fn policy(&self, i: usize) -> (Policy, Option<u16>) {
        self.services[i]
    }

    /// The bucket tables of an agreed view.
    #[must_use]
    pub fn tables(&self, agreed: &Agreed) -> Tables {
        let mut made: Vec<(Vec<Share>, Option<u16>, Arc<BucketTable>)> = Vec::new();
        let mut table = |(policy, designated): (Policy, Option<u16>),
                         shares: Vec<dts_membership::Share>| {
            let share = |s: &dts_membership::Share| Share {
                node: s.node,
                weight: s.weight,
            };
            let shares: Vec<Share> = shares.iter().map(share).collect();
            // Where the designated node takes nothing on, the others share its work.
            let designated = designated
                .filter(|_| policy == Policy::Designated)
                .filter(|d| shares.iter().any(|s| s.node == *d));
            let known = made.iter().find(|m| m.0 == shares && m.1 == designated);
            if let Some((.., table)) = known {
                return Arc::new(table.with_policy(policy));
            }
            let table = BucketTable::new(policy, designated, &shares, self.buckets, self.key);
            let table = Arc::new(table);
            made.push((shares, designated, Arc::clone(&table)));
            table
        };
        let general = table(self.general, agreed.general());
        let services = self.services.iter().enumerate();
        let services = services.map(|(i, s)| match s.0 {
            Policy::Scheduled => table(*s, agreed.scheduled(i)),
            _ => table(*s, agreed.shares(i)),
        });
        (general, services.collect())
    }
}

/// The view that follows `before` when the members are seen as `seen`; with `owners` the
/// bucket tables are those of `agreed`, else as before.
#[must_use]
pub fn next(before: &View, plan: &Plan, seen: &[Seen], agreed: &Agreed, owners: bool) -> View {
    let member = |m: &Member| {
        let seen = seen.iter().find(|s| s.peer.node == m.id);
        let record = seen.and_then(|s| s.record);
        Member {
            known: record.map(|r| (r.link_mac, r.incarnation)).or(m.known),
            alive: agreed.part(m.id).is_some(),
            on_wire: agreed.part(m.id).is_some_and(|p| p.on_wire),
            gone: seen.is_some_and(|s| s.gone),
            takes: agreed.takes(m.id),
            ..*m
        }
    };
    let mut view = View {
        members: before.members.iter().map(member).collect(),
        ..before.clone()
    };
    if owners {
        put_tables(&mut view, plan.tables(agreed));
    }
    view
}

fn tables_of(view: &View) -> Tables {
    let services = view.services.iter().map(|s| Arc::clone(&s.buckets));
    (Arc::clone(&view.general), services.collect())
}

fn put_tables(view: &mut View, (general, services): Tables) {
    view.general = general;
    for (service, buckets) in view.services.iter_mut().zip(services) {
        service.buckets = buckets;
    }
}

/// The tables of `view`, with what this node owned `before`.
fn overlapping(view: &View, before: &View) -> Tables {
    let keep = |new: &Arc<BucketTable>, old: &Arc<BucketTable>| {
        if Arc::ptr_eq(new, old) {
            return Arc::clone(new);
        }
        Arc::new(new.keeping(view.node, old))
    };
    let services = view.services.iter().zip(&before.services);
    let services = services.map(|(new, old)| keep(&new.buckets, &old.buckets));
    (keep(&view.general, &before.general), services.collect())
}

/// Follows the members: makes one view after the other.
#[derive(Debug)]
pub struct Follower {
    plan: Plan,
    owners_of: Option<Agreed>,
    /// The tables without what was kept, and when they hold.
    later: Option<(Tables, Time)>,
}

impl Follower {
    /// One that has not seen anything yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            owners_of: None,
            later: None,
        }
    }

    /// The view behind `before`. Owners change with it if `owners` says so and `agreed` is
    /// news; what this node gives away it owns for [`OVERLAP`] more.
    #[must_use]
    pub fn follow(
        &mut self,
        before: &View,
        seen: &[Seen],
        agreed: &Agreed,
        owners: bool,
        now: Time,
    ) -> View {
        let obeyed = self.obeyed(agreed);
        let agreed = obeyed.as_ref().unwrap_or(agreed);
        let new_owners = owners && self.owners_of.as_ref() != Some(agreed);
        let mut view = next(before, &self.plan, seen, agreed, new_owners);
        if new_owners {
            self.owners_of = Some(agreed.clone());
            if broken(Mutation::GivenAwayAtOnce) {
                return view;
            }
            self.later = Some((tables_of(&view), now + OVERLAP));
            let overlap = overlapping(&view, before);
            put_tables(&mut view, overlap);
        }
        view
    }

    /// What a rule that is broken on purpose makes of an agreed view.
    fn obeyed(&self, agreed: &Agreed) -> Option<Agreed> {
        if broken(Mutation::MinorityOwns) {
            return Some(Agreed {
                minority: false,
                ..agreed.clone()
            });
        }
        let mut before = self.owners_of.clone()?;
        let lost = |a: &Agreed| before.parts.iter().any(|p| a.part(p.node).is_none());
        if broken(Mutation::DeadKeepBuckets) && lost(agreed) {
            before.minority = agreed.minority;
            return Some(before);
        }
        None
    }

    /// When [`Self::let_go`] is to be called.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.later.as_ref().map(|(_, at)| *at)
    }

    /// The view behind `before` in which what was kept is given away; `None` before its time.
    #[must_use]
    pub fn let_go(&mut self, before: &View, now: Time) -> Option<View> {
        let (tables, _) = self.later.take_if(|(_, at)| now >= *at)?;
        let mut view = before.clone();
        put_tables(&mut view, tables);
        Some(view)
    }
}
