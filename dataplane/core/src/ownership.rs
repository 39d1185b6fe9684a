//! Who owns a new connection: a keyed hash into a bucket table that is a pure
//! function of (members, weights, policy, epoch).

use crate::key::{FlowKey, HashKey};
use dts_config::Policy;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// A member as the bucket table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Node id.
    pub node: u16,
    /// 0 (owns nothing) to 100.
    pub weight: u32,
}

/// Which node owns each bucket.
#[derive(Clone, Debug)]
pub struct BucketTable {
    owner: Box<[u16]>,
    mask: u64,
    key: HashKey,
    policy: Policy,
}

impl BucketTable {
    /// Builds the table of `buckets` (a power of two) buckets.
    ///
    /// `key` is equal on all nodes. With [`Policy::Designated`] every bucket is
    /// `designated`'s; otherwise each bucket goes to the member with the highest
    /// weighted rendezvous score, so that a change of members moves only the
    /// buckets that it must.
    pub fn new(
        policy: Policy,
        designated: Option<u16>,
        members: &[Share],
        buckets: usize,
        key: [u8; 16],
    ) -> Self {
        let owner = (0..buckets)
            .map(|b| match (policy, designated) {
                (Policy::Designated, Some(node)) => node,
                _ => best(b as u64, members, &key),
            })
            .collect();
        Self {
            owner,
            mask: buckets as u64 - 1,
            key: HashKey::new(key),
            policy,
        }
    }

    /// The owner of a new connection.
    #[inline]
    pub fn owner(&self, k: &FlowKey) -> u16 {
        let h = match self.policy {
            Policy::SourceHash => self.key.addr(&k.client),
            _ => self.key.flow(k),
        };
        self.owner[(h & self.mask) as usize]
    }

    /// The owner of what belongs to no connection (ARP, ICMP, closed ports).
    #[inline]
    pub fn owner_of(&self, a: &crate::key::Addr) -> u16 {
        self.owner[(self.key.addr(a) & self.mask) as usize]
    }

    /// Buckets by owner.
    pub fn share(&self, node: u16) -> usize {
        self.owner.iter().filter(|&&o| o == node).count()
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    /// Whether there is no bucket.
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }
}

/// Weighted rendezvous hashing: the member with the largest `weight / -ln(u)`,
/// u uniform in (0, 1) from the keyed hash of (bucket, member).
fn best(bucket: u64, members: &[Share], key: &[u8; 16]) -> u16 {
    let mut top = (f64::MIN, 0u16);
    for m in members.iter().filter(|m| m.weight > 0) {
        let mut h = SipHasher13::new_with_key(key);
        h.write_u64(bucket);
        h.write_u16(m.node);
        let u = ((h.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = f64::from(m.weight) / -u.ln();
        if score > top.0 || (score == top.0 && m.node < top.1) {
            top = (score, m.node);
        }
    }
    top.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Addr;

    fn members(n: u16) -> Vec<Share> {
        (1..=n).map(|node| Share { node, weight: 100 }).collect()
    }

    fn table(policy: Policy, m: &[Share]) -> BucketTable {
        BucketTable::new(policy, Some(2), m, 4096, *b"0123456789abcdef")
    }

    fn key(port: u16) -> FlowKey {
        FlowKey {
            client: Addr::v4([10, 0, 0, 9]),
            vip: Addr::v4([10, 0, 0, 1]),
            client_port: port,
            port: 80,
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut m = members(3);
        m[2].weight = 50;
        let t = table(Policy::FlowHash, &m);
        let s: Vec<usize> = (1..=3).map(|n| t.share(n)).collect();
        assert_eq!(s.iter().sum::<usize>(), 4096);
        assert!(
            (1500..1780).contains(&s[0]) && (1500..1780).contains(&s[1]),
            "{s:?}"
        );
        assert!((730..910).contains(&s[2]), "{s:?}");
        m[2].weight = 0;
        assert_eq!(table(Policy::FlowHash, &m).share(3), 0);
    }

    #[test]
    fn removing_a_member_moves_only_its_buckets() {
        let all = table(Policy::FlowHash, &members(4));
        let less = table(Policy::FlowHash, &members(3));
        for b in 0..4096 {
            if all.owner[b] != 4 {
                assert_eq!(all.owner[b], less.owner[b]);
            }
        }
    }

    #[test]
    fn policies() {
        let m = members(3);
        assert!((0..100).all(|p| table(Policy::Designated, &m).owner(&key(p)) == 2));
        let src = table(Policy::SourceHash, &m);
        assert!((0..100).all(|p| src.owner(&key(p)) == src.owner(&key(0))));
        let flow = table(Policy::FlowHash, &m);
        let mut seen: Vec<u16> = (0..100).map(|p| flow.owner(&key(p))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [1, 2, 3]);
    }
}
