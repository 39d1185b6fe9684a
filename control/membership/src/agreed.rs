//! What all nodes that hear of each other see alike, and what follows from it.

use crate::record::State;
use crate::schedule::FULL;
use siphasher::sip::SipHasher24;
use std::collections::BTreeMap;
use std::hash::Hasher;

/// The last bit of a health; services behind it share it.
const LAST: usize = u64::BITS as usize - 1;

/// What a member that is there counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Node id.
    pub node: u16,
    /// Its start.
    pub incarnation: u64,
    /// What it takes on.
    pub state: State,
    /// 0 (takes nothing new) to 100.
    pub weight: u8,
    /// Bit `i`: its application of service `i` is well.
    pub health: u64,
    /// This node and it hear each other on the wire, where the clients are.
    pub on_wire: bool,
}

/// A member's share of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Node id.
    pub node: u16,
    /// From 1 on; only relations count. At most 100, or 100,000 where a scheduler has its
    /// word.
    pub weight: u32,
}

/// Whether a member takes what is new of a service, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has a share, by this weight.
    Shares(u8),
    /// It is not there: dead, gone, or not heard of yet.
    Absent,
    /// It takes on nothing new.
    Draining,
    /// It waits until no active member could take it.
    Standby,
    /// Its weight is 0.
    NoWeight,
    /// Its application of the service is not well.
    Ill,
    /// The node that says so and it do not hear each other on the wire.
    OffWire,
    /// The node that says so is of a minority, in which nobody owns anything.
    Minority,
}

impl Standing {
    /// The word in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shares(_) => "shares",
            Self::Absent => "absent",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::NoWeight => "weight_0",
            Self::Ill => "ill",
            Self::OffWire => "off_wire",
            Self::Minority => "minority",
        }
    }
}

/// The members that are there, by id. Equal views give equal tables on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Those who are there; this node is always among them, until it leaves.
    pub parts: Vec<Part>,
    /// Most of the others were lost at one time without a goodbye: more likely this side
    /// of a broken link than theirs. A minority owns nothing.
    pub minority: bool,
    /// What a scheduler multiplies weights by, thousandths, by node; who is not in it gets
    /// its whole weight.
    pub factors: BTreeMap<u16, u16>,
}

impl Part {
    /// Whether it may be given something new of service `i`, other things being equal.
    fn fits(&self, i: Option<usize>) -> bool {
        self.on_wire && self.weight > 0 && i.is_none_or(|i| self.health >> i.min(LAST) & 1 != 0)
    }
}

impl Agreed {
    /// Who shares the new connections of the service with index `i`, by id: active members
    /// of a weight whose application is well; where there is none, those on standby.
    #[must_use]
    pub fn shares(&self, i: usize) -> Vec<Share> {
        if self.minority {
            return Vec::new();
        }
        self.fit(Some(i))
    }

    /// As [`Agreed::shares`], by the weights that the scheduler gives.
    #[must_use]
    pub fn scheduled(&self, i: usize) -> Vec<Share> {
        let mut shares = self.shares(i);
        for share in &mut shares {
            let factor = self.factors.get(&share.node).copied().unwrap_or(FULL);
            share.weight *= u32::from(factor);
        }
        shares
    }

    /// Who is the scheduler: the lowest id of the active members. A minority has none,
    /// because the loads that it knows are not the cluster's.
    #[must_use]
    pub fn scheduler(&self) -> Option<u16> {
        let mut parts = self.parts.iter();
        let found = parts.find(|p| p.state == State::Active);
        found.filter(|_| !self.minority).map(|p| p.node)
    }

    /// Who shares what is no service's: who would take what is new, or else everybody who
    /// is there, because clients still ask for the VIP's Ethernet address.
    #[must_use]
    pub fn general(&self) -> Vec<Share> {
        if self.minority {
            return Vec::new();
        }
        let fit = self.fit(None);
        if !fit.is_empty() {
            return fit;
        }
        let share = |p: &Part| Share {
            node: p.node,
            weight: 1,
        };
        let there = self.parts.iter().filter(|p| p.state != State::Left);
        there.map(share).collect()
    }

    fn fit(&self, i: Option<usize>) -> Vec<Share> {
        let of = |state: State| -> Vec<Share> {
            let parts = self.parts.iter();
            parts
                .filter(|p| p.state == state && p.fits(i))
                .map(|p| Share {
                    node: p.node,
                    weight: p.weight.into(),
                })
                .collect()
        };
        let active = of(State::Active);
        if active.is_empty() {
            of(State::Standby)
        } else {
            active
        }
    }

    /// Bit `i`: `node` may be handed connections of service `i`. A minority's members
    /// serve each other.
    #[must_use]
    pub fn takes(&self, node: u16) -> u64 {
        (0..=LAST)
            .filter(|&i| self.fit(Some(i)).iter().any(|s| s.node == node))
            .fold(0, |bits, i| bits | 1 << i)
    }

    /// Why `node` has, or does not have, a share of the service with index `i`.
    #[must_use]
    pub fn standing(&self, node: u16, i: usize) -> Standing {
        let Some(part) = self.part(node) else {
            return Standing::Absent;
        };
        if self.shares(i).iter().any(|s| s.node == node) {
            return Standing::Shares(part.weight);
        }
        match part.state {
            State::Draining => Standing::Draining,
            State::Left => Standing::Absent,
            _ if part.weight == 0 => Standing::NoWeight,
            _ if !part.on_wire => Standing::OffWire,
            _ if !part.fits(Some(i)) => Standing::Ill,
            _ if self.minority => Standing::Minority,
            State::Active | State::Standby => Standing::Standby,
        }
    }

    /// The member with this id, if it is there.
    #[must_use]
    pub fn part(&self, node: u16) -> Option<&Part> {
        self.parts.iter().find(|p| p.node == node)
    }

    /// A digest of all of it and of `config`, what the configurations must agree on: two
    /// nodes with one epoch have the same owners.
    #[must_use]
    pub fn epoch(&self, config: u64) -> u64 {
        let mut h = SipHasher24::new_with_key(b"DTS view epoch 1");
        h.write_u64(config);
        h.write_u8(self.minority.into());
        for p in &self.parts {
            h.write_u16(p.node);
            h.write_u8(p.state as u8);
            h.write_u8(p.weight);
            h.write_u64(p.health);
            h.write_u8(p.on_wire.into());
        }
        // No member has id 0: what follows is no member.
        h.write_u16(0);
        for (node, factor) in &self.factors {
            h.write_u16(*node);
            h.write_u16(*factor);
        }
        h.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(node: u16, state: State, weight: u8) -> Part {
        Part {
            node,
            incarnation: 1,
            state,
            weight,
            health: u64::MAX,
            on_wire: true,
        }
    }

    fn view(parts: &[Part]) -> Agreed {
        Agreed {
            parts: parts.to_vec(),
            ..Agreed::default()
        }
    }

    fn owners(a: &Agreed, i: usize) -> Vec<u16> {
        a.shares(i).iter().map(|s| s.node).collect()
    }

    #[test]
    fn only_active_members_of_a_weight_take_what_is_new() {
        let a = view(&[
            part(1, State::Active, 100),
            part(2, State::Draining, 100),
            part(3, State::Standby, 100),
            part(4, State::Active, 0),
            part(5, State::Active, 7),
        ]);
        assert_eq!(owners(&a, 0), [1, 5]);
        assert_eq!(a.general()[1].weight, 7);
        for (node, takes) in [(1, u64::MAX), (2, 0), (3, 0), (4, 0), (5, u64::MAX), (6, 0)] {
            assert_eq!(a.takes(node), takes, "node {node}");
        }
    }

    #[test]
    fn standby_takes_over_when_nobody_is_active() {
        let a = view(&[part(2, State::Draining, 100), part(3, State::Standby, 40)]);
        assert_eq!(owners(&a, 0), [3]);
        assert_eq!(a.takes(3), u64::MAX);
        assert!(view(&[part(2, State::Draining, 100)]).shares(0).is_empty());
    }

    #[test]
    fn health_counts_by_service() {
        let sick = Part {
            health: !0b10,
            ..part(1, State::Active, 100)
        };
        let a = view(&[sick, part(2, State::Active, 100)]);
        assert_eq!(owners(&a, 0), [1, 2]);
        assert_eq!(owners(&a, 1), [2]);
        assert_eq!(a.takes(1), !0b10);
        let last = Part {
            health: !(1 << 63),
            ..part(1, State::Active, 100)
        };
        let a = view(&[last, part(2, State::Active, 100)]);
        assert_eq!(owners(&a, 62), [1, 2]);
        assert_eq!((owners(&a, 63), owners(&a, 64)), (vec![2], vec![2]));
        assert_eq!(a.general().len(), 2);
    }

    #[test]
    fn who_is_off_the_wire_takes_nothing_whatever_its_state() {
        let off = Part {
            on_wire: false,
            ..part(1, State::Active, 100)
        };
        let a = view(&[off, part(2, State::Standby, 100)]);
        assert_eq!((owners(&a, 0), a.general().len()), (vec![2], 1));
        assert_eq!((a.takes(1), a.takes(2)), (0, u64::MAX));
    }

    #[test]
    fn who_has_no_share_has_a_reason() {
        let sick = Part {
            health: !0b10,
            ..part(6, State::Active, 100)
        };
        let mut a = view(&[
            part(1, State::Active, 90),
            part(2, State::Draining, 100),
            part(3, State::Standby, 100),
            part(4, State::Active, 0),
            sick,
            Part {
                on_wire: false,
                ..part(7, State::Active, 100)
            },
        ]);
        assert_eq!(a.standing(7, 0), Standing::OffWire);
        a.parts.pop();
        let reasons = |a: &Agreed, i| [1, 2, 3, 4, 5, 6].map(|node| a.standing(node, i));
        let mut expected = [
            Standing::Shares(90),
            Standing::Draining,
            Standing::Standby,
            Standing::NoWeight,
            Standing::Absent,
            Standing::Ill,
        ];
        assert_eq!(reasons(&a, 1), expected);
        expected[5] = Standing::Shares(100);
        assert_eq!(reasons(&a, 0), expected);
        // A member has a share exactly if its standing says so.
        for (node, i) in (1..7).flat_map(|n| [(n, 0), (n, 1)]) {
            let shares = a.shares(i).iter().any(|s| s.node == node);
            assert_eq!(shares, matches!(a.standing(node, i), Standing::Shares(_)));
        }
        a.minority = true;
        expected[0] = Standing::Minority;
        (expected[2], expected[5]) = (Standing::Minority, Standing::Minority);
        assert_eq!(reasons(&a, 0), expected);
        a.minority = false;
        a.parts.remove(0);
        a.parts.pop();
        assert_eq!(a.standing(3, 0), Standing::Shares(100));
    }

    #[test]
    fn a_minority_owns_nothing_and_serves_itself() {
        let a = Agreed {
            minority: true,
            ..view(&[part(1, State::Active, 100)])
        };
        assert!(a.shares(0).is_empty() && a.general().is_empty());
        assert_eq!(a.takes(1), u64::MAX);
    }

    #[test]
    fn the_scheduler_is_the_lowest_active_member_and_multiplies_weights() {
        let mut a = view(&[
            part(1, State::Draining, 100),
            part(2, State::Active, 0),
            part(3, State::Active, 50),
            part(4, State::Active, 7),
        ]);
        a.factors.insert(3, 250);
        assert_eq!(a.scheduler(), Some(2));
        let weights = |shares: Vec<Share>| -> Vec<(u16, u32)> {
            shares.iter().map(|s| (s.node, s.weight)).collect()
        };
        assert_eq!(weights(a.shares(0)), [(3, 50), (4, 7)]);
        assert_eq!(weights(a.scheduled(0)), [(3, 12_500), (4, 7_000)]);
        a.minority = true;
        assert_eq!((a.scheduler(), a.scheduled(0)), (None, vec![]));
        assert_eq!(view(&[part(1, State::Standby, 100)]).scheduler(), None);
    }

    #[test]
    fn where_nobody_takes_anything_new_all_speak_for_the_address() {
        let speaks = |parts: &[Part]| -> Vec<u16> {
            let general = view(parts).general();
            general.iter().map(|s| s.node).collect()
        };
        let idle = part(2, State::Active, 0);
        let drained = part(1, State::Draining, 100);
        assert_eq!(speaks(&[drained, idle]), [1, 2]);
        assert_eq!(speaks(&[drained, part(3, State::Left, 100)]), [1]);
        assert_eq!(speaks(&[drained, idle, part(4, State::Standby, 1)]), [4]);
    }

    #[test]
    fn the_epoch_is_of_what_decides() {
        let a = view(&[part(1, State::Active, 100), part(2, State::Active, 50)]);
        let mut restarted = a.clone();
        restarted.parts[1].incarnation = 2;
        assert_eq!(a.epoch(5), restarted.epoch(5));
        let mut others = vec![a.epoch(5), a.epoch(6)];
        for change in [
            |a: &mut Agreed| a.parts[1].weight = 49,
            |a: &mut Agreed| a.parts[1].state = State::Draining,
            |a: &mut Agreed| a.parts[1].health = 1,
            |a: &mut Agreed| a.parts[1].on_wire = false,
            |a: &mut Agreed| a.parts[1].node = 3,
            |a: &mut Agreed| a.minority = true,
            |a: &mut Agreed| a.parts.truncate(1),
            |a: &mut Agreed| a.factors.extend([(2, 500)]),
            |a: &mut Agreed| a.factors.extend([(1, 500)]),
        ] {
            let mut b = a.clone();
            change(&mut b);
            others.push(b.epoch(5));
        }
        let all: std::collections::HashSet<_> = others.iter().collect();
        assert_eq!(all.len(), others.len());
    }
}
