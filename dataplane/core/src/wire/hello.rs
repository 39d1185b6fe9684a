//! Hellos of the members to each other on the wire.
//!
//! ```text
//! Ethernet: cluster's address, sender's address, 0x88b5
//! magic "DTSH" | version 1 | key id | node (2) | incarnation (8) | number (8) |
//! bytes of the list (2) | the list | authenticator (16)
//! ```
//!
//! The list says whom the sender hears: bit `i % 8` of byte `i / 8` is node `i`. The
//! authenticator is SipHash-2-4-128 under the link key, over all from the magic on.

use super::{ETH_LEN, EthHdr, Mac};
use dts_proto::block::{LinkKey, MAC_LEN};
use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Local experimental EtherType 1 (IEEE 802, clause 9.2.3), which others may use too.
pub const ETHERTYPE: u16 = 0x88b5;
/// Highest node id that a list can have, so that a hello fits an MTU of 1,280 bytes.
pub const ID_MOST: u16 = 8_191;
const MAGIC: [u8; 4] = *b"DTSH";
const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"DTS wire hello";
/// Least bytes of a frame without its check sequence (IEEE 802.3).
const FRAME_LEAST: usize = 60;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: u8,
    key_id: u8,
    node: U16,
    incarnation: U64,
    number: U64,
    len: U16,
}

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its id, 1 to [`ID_MOST`].
    pub node: u16,
    /// Its start.
    pub incarnation: u64,
    /// Rises with each of its hellos.
    pub number: u64,
    /// Whom it hears.
    pub hears: Ids,
}

/// A set of node ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(Vec<u8>);

impl Ids {
    /// Puts an id in; those above [`ID_MOST`] are left out.
    pub fn insert(&mut self, id: u16) {
        let at = usize::from(id / 8);
        if id <= ID_MOST {
            self.0.resize(self.0.len().max(at + 1), 0);
            self.0[at] |= 1 << (id % 8);
        }
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, id: u16) -> bool {
        let byte = self.0.get(usize::from(id / 8));
        byte.is_some_and(|b| b >> (id % 8) & 1 != 0)
    }
}

impl FromIterator<u16> for Ids {
    fn from_iter<T: IntoIterator<Item = u16>>(ids: T) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

/// A frame that is no valid hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Hello {
    /// The frame, signed with `key`.
    #[must_use]
    pub fn frame(&self, dst: Mac, src: Mac, key: &LinkKey) -> Vec<u8> {
        let eth = EthHdr {
            dst,
            src,
            ethertype: ETHERTYPE.into(),
        };
        let list = &self.hears.0;
        let raw = Raw {
            magic: MAGIC,
            version: VERSION,
            key_id: key.id,
            node: self.node.into(),
            incarnation: self.incarnation.into(),
            number: self.number.into(),
            // At most 1,024 by the bound on ids.
            len: (list.len() as u16).into(),
        };
        let mut frame = eth.as_bytes().to_vec();
        frame.extend_from_slice(raw.as_bytes());
        frame.extend_from_slice(list);
        let tag = key.tag(CONTEXT, &frame[ETH_LEN..]);
        frame.extend_from_slice(&tag);
        frame.resize(frame.len().max(FRAME_LEAST), 0);
        frame
    }

    /// Whether a frame claims to be one; `head` is its beginning.
    #[must_use]
    pub fn is_one(head: &[u8]) -> bool {
        head.get(12..18)
            .is_some_and(|b| b[..2] == ETHERTYPE.to_be_bytes() && b[2..] == MAGIC)
    }

    /// Reads one that [`Self::is_one`] is true of, and checks its authenticator.
    ///
    /// # Errors
    /// It is cut short, of another version, or not authentic under any of `keys`.
    pub fn parse(frame: &[u8], keys: &[LinkKey]) -> Result<Self, Refused> {
        let all = frame.get(ETH_LEN..).ok_or(Refused)?;
        let (raw, rest) = Raw::ref_from_prefix(all).map_err(|_| Refused)?;
        let len = usize::from(raw.len.get());
        let (list, rest) = rest.split_at_checked(len).ok_or(Refused)?;
        let tag = rest.first_chunk::<MAC_LEN>().ok_or(Refused)?;
        let signed = &all[..size_of::<Raw>() + len];
        let mut named = keys.iter().filter(|k| k.id == raw.key_id);
        if raw.version != VERSION || !named.any(|k| k.is_tag(tag, CONTEXT, signed)) {
            return Err(Refused);
        }
        Ok(Self {
            node: raw.node.get(),
            incarnation: raw.incarnation.get(),
            number: raw.number.get(),
            hears: Ids(list.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            node: 3,
            incarnation: 1 << 50,
            number: 77,
            hears: [1, 2, 64, ID_MOST].into_iter().collect(),
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        let (old, new) = (LinkKey::of(b"old key"), LinkKey::of(b"new key"));
        let frame = hello().frame([2; 6], [4; 6], &old);
        assert!(Hello::is_one(&frame) && frame.len() <= 1_280 + ETH_LEN);
        assert_eq!(Hello::parse(&frame, &[new.clone(), old]), Ok(hello()));
        assert_eq!(Hello::parse(&frame, &[new]), Err(Refused));
        let quiet = Hello {
            hears: Ids::default(),
            ..hello()
        };
        let key = LinkKey::of(b"k");
        let frame = quiet.frame([2; 6], [4; 6], &key);
        assert_eq!(frame.len(), FRAME_LEAST);
        assert_eq!(Hello::parse(&frame, &[key]), Ok(quiet));
    }

    #[test]
    fn every_bit_and_length_is_covered() {
        let key = LinkKey::of(b"k");
        let frame = hello().frame([2; 6], [4; 6], &key);
        for bit in (ETH_LEN + 4) * 8..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Hello::parse(&bad, std::slice::from_ref(&key)),
                Err(Refused),
                "bit {bit}"
            );
        }
        for len in 0..frame.len() {
            assert_eq!(
                Hello::parse(&frame[..len], std::slice::from_ref(&key)),
                Err(Refused)
            );
        }
    }

    #[test]
    fn ids_are_a_set() {
        let ids: Ids = [9, 1, 9, ID_MOST + 1].into_iter().collect();
        let is: Vec<u16> = (0..=u16::MAX).filter(|&i| ids.contains(i)).collect();
        assert_eq!(is, [1, 9]);
    }
}
