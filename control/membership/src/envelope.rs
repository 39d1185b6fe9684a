//! What every message between nodes is wrapped in.
//!
//! ```text
//! 0   magic "DTSM" | version 1 | key id | kind | 0     8 bytes
//! 8   sender | receiver | length of the whole | 0      8
//! 16  the sender's incarnation                         8
//! 24  counter                                          8
//! 32  body
//! ..  authenticator (SipHash-2-4-128) over all before  16
//! ```
//!
//! All numbers are big-endian. Counters rise by one with every message of an incarnation,
//! whoever it goes to; a receiver takes each once, and none of an earlier incarnation.
//! No time is in it: clocks of different nodes need not agree.

use dts_proto::block::{LinkKey, ReplayWindow};
use std::collections::HashMap;
use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest message, bytes: below the MTU of any link, with IPv6's headers.
pub const LEN_MAX: usize = 1200;
/// Bytes beside the body.
pub const OVERHEAD: usize = size_of::<Head>() + TAG;
const MAGIC: [u8; 4] = *b"DTSM";
const VERSION: u8 = 1;
const TAG: usize = 16;
/// Keeps these authenticators apart from those of other uses of the key.
const CONTEXT: &[u8] = b"membership v1";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    version: u8,
    key_id: u8,
    kind: u8,
    zero: u8,
    sender: U16,
    receiver: U16,
    length: U16,
    zero2: U16,
    incarnation: U64,
    counter: U64,
}

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The length of SWIM's message (2 bytes), that message, and records.
    Swim = 1,
    /// Records.
    Records = 2,
    /// What the receiver is asked to become.
    Wish = 3,
    /// How much of its weight each member gets.
    Schedule = 4,
    /// A ticket (8 bytes), and what the receiver is asked to tell.
    Question = 5,
    /// The incarnation of who asked (8 bytes), its ticket (8), and what it is told.
    Answer = 6,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// No message of ours, or one that contradicts itself.
    #[error("malformed")]
    Malformed,
    /// Of a version that this software does not speak.
    #[error("another version")]
    Version,
    /// It names a key that this node does not have.
    #[error("another key")]
    Key,
    /// Its authenticator is not of the key that it names.
    #[error("not authentic")]
    Forged,
    /// Its sender is no member.
    #[error("no member")]
    Stranger,
    /// It is authentic and for another node.
    #[error("for another node")]
    Misdirected,
    /// Another node uses the sender's id: this node's own; a member's, from an address
    /// that is not that member's; or an earlier start of a member speaks on.
    #[error("an id that two nodes use")]
    DuplicateId,
    /// It was taken before, or is too old to tell.
    #[error("replayed")]
    Replayed,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Version,
        Self::Key,
        Self::Forged,
        Self::Stranger,
        Self::Misdirected,
        Self::DuplicateId,
        Self::Replayed,
    ];

    /// The word in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Key => "key",
            Self::Forged => "forged",
            Self::Stranger => "stranger",
            Self::Misdirected => "misdirected",
            Self::DuplicateId => "duplicate_id",
            Self::Replayed => "replayed",
        }
    }
}

/// What an envelope says beside its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// What the body is.
    pub kind: Kind,
    /// Node id of the sender, from 1 on.
    pub sender: u16,
    /// Node id of the receiver.
    pub receiver: u16,
    /// The sender's start.
    pub incarnation: u64,
    /// From 1 on, one more with every message of the incarnation.
    pub counter: u64,
}

/// The message with `body` in it. A body that is too long is the caller's mistake and
/// makes a message that no receiver takes.
#[must_use]
pub fn seal(outside: &Outside, body: &[u8], key: &LinkKey) -> Vec<u8> {
    let length = OVERHEAD + body.len();
    debug_assert!(length <= LEN_MAX, "a message of {length} bytes");
    let head = Head {
        magic: MAGIC,
        version: VERSION,
        key_id: key.id,
        kind: outside.kind as u8,
        zero: 0,
        sender: outside.sender.into(),
        receiver: outside.receiver.into(),
        length: u16::try_from(length).unwrap_or(0).into(),
        zero2: 0.into(),
        incarnation: outside.incarnation.into(),
        counter: outside.counter.into(),
    };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(body);
    let tag = key.tag(CONTEXT, &bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

/// Reads a message that one of `keys` authenticates. Whether it was taken before is for
/// [`Guard`] to say.
///
/// # Errors
/// [`Refused::Malformed`], [`Refused::Version`], [`Refused::Key`] or [`Refused::Forged`].
pub fn open<'a>(bytes: &'a [u8], keys: &[LinkKey]) -> Result<(Outside, &'a [u8]), Refused> {
    let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| Refused::Malformed)?;
    if head.magic != MAGIC {
        return Err(Refused::Malformed);
    }
    // Before anything else: of another version only magic and version are known.
    if head.version != VERSION {
        return Err(Refused::Version);
    }
    if usize::from(head.length.get()) != bytes.len() || bytes.len() > LEN_MAX {
        return Err(Refused::Malformed);
    }
    let at = rest.len().checked_sub(TAG).ok_or(Refused::Malformed)?;
    let (body, tag) = rest.split_at(at);
    let signed = &bytes[..bytes.len() - TAG];
    // Two keys may have one number.
    let mut named = keys.iter().filter(|k| k.id == head.key_id).peekable();
    if named.peek().is_none() {
        return Err(Refused::Key);
    }
    if !named.any(|k| k.is_tag(tag, CONTEXT, signed)) {
        return Err(Refused::Forged);
    }
    let kind = match head.kind {
        1 => Kind::Swim,
        2 => Kind::Records,
        3 => Kind::Wish,
        4 => Kind::Schedule,
        5 => Kind::Question,
        6 => Kind::Answer,
        _ => return Err(Refused::Malformed),
    };
    let outside = Outside {
        kind,
        sender: head.sender.get(),
        receiver: head.receiver.get(),
        incarnation: head.incarnation.get(),
        counter: head.counter.get(),
    };
    if outside.sender == 0 || head.zero != 0 || head.zero2.get() != 0 {
        return Err(Refused::Malformed);
    }
    Ok((outside, body))
}

/// What is remembered of one sender.
#[derive(Debug, Default)]
struct Memory {
    incarnation: u64,
    window: ReplayWindow,
    newest: u64,
    /// The incarnation before, and its newest counter.
    before: (u64, u64),
}

/// Takes every message of a sender once.
#[derive(Debug, Default)]
pub struct Guard(HashMap<u16, Memory>);

impl Guard {
    /// Takes an authentic message of a member.
    ///
    /// # Errors
    /// [`Refused::Replayed`], and [`Refused::DuplicateId`] where an earlier start speaks on.
    pub fn accept(&mut self, o: &Outside) -> Result<(), Refused> {
        let m = self.0.entry(o.sender).or_default();
        if o.incarnation < m.incarnation {
            let speaks_on = m.before.0 == o.incarnation && o.counter > m.before.1;
            if !speaks_on {
                return Err(Refused::Replayed);
            }
            m.before.1 = o.counter;
            return Err(Refused::DuplicateId);
        }
        if o.incarnation > m.incarnation {
            *m = Memory {
                incarnation: o.incarnation,
                before: (m.incarnation, m.newest),
                ..Memory::default()
            };
        }
        if !m.window.accept(o.counter) {
            return Err(Refused::Replayed);
        }
        m.newest = m.newest.max(o.counter);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUTSIDE: Outside = Outside {
        kind: Kind::Records,
        sender: 0x0102,
        receiver: 0x0304,
        incarnation: 0x0506_0708_090a_0b0c,
        counter: 0x0d0e_0f10_1112_1314,
    };

    fn key(id: u8) -> LinkKey {
        LinkKey::new(id, b"0123456789abcdef")
    }

    #[test]
    fn golden_bytes() {
        let bytes = seal(&OUTSIDE, b"body", &key(9));
        let head = [
            0x44, 0x54, 0x53, 0x4d, 1, 9, 2, 0, 1, 2, 3, 4, 0, 52, 0, 0, 5, 6, 7, 8, 9, 10, 11, 12,
            13, 14, 15, 16, 17, 18, 19, 20,
        ];
        assert_eq!(bytes[..32], head);
        assert_eq!(&bytes[32..36], b"body");
        assert_eq!(bytes[36..], GOLDEN_TAG);
        assert_eq!(open(&bytes, &[key(9)]), Ok((OUTSIDE, &b"body"[..])));
    }

    /// By another implementation of SipHash (Python), over the derived key.
    const GOLDEN_TAG: [u8; 16] = [
        0x6c, 0xce, 0x7a, 0xa6, 0xbd, 0xea, 0xd6, 0x8f, 0xb5, 0xd2, 0x0c, 0xca, 0x29, 0x11, 0x68,
        0x04,
    ];

    proptest! {
        #[test]
        fn every_bit_is_covered(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let good = seal(&OUTSIDE, &body, &key(1));
            prop_assert!(open(&good, &[key(1)]).is_ok());
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // Other key numbers are known too, so that one flipped bit finds a key.
                let keys: Vec<_> = [1, 0, 3, 5, 9, 17, 33, 65, 129].map(key).into();
                prop_assert!(open(&bad, &keys).is_err(), "bit {bit}");
            }
            for len in 0..good.len() {
                prop_assert_eq!(open(&good[..len], &[key(1)]), Err(Refused::Malformed));
            }
        }

        #[test]
        fn noise_is_refused(mut bytes: Vec<u8>, dress: bool) {
            if dress && bytes.len() >= 14 {
                let length = (bytes.len() as u16).to_be_bytes();
                bytes[..6].copy_from_slice(&[0x44, 0x54, 0x53, 0x4d, VERSION, 1]);
                bytes[12..14].copy_from_slice(&length);
            }
            prop_assert!(open(&bytes, &[key(1)]).is_err());
        }
    }

    #[test]
    fn the_reasons_are_told_apart() {
        let good = seal(&OUTSIDE, b"x", &key(2));
        let other = LinkKey::new(2, b"another cluster.");
        assert_eq!(open(&good, &[key(1)]), Err(Refused::Key));
        assert_eq!(
            open(&good, std::slice::from_ref(&other)),
            Err(Refused::Forged)
        );
        assert!(open(&good, &[other, key(2)]).is_ok());
        let mut later = good.clone();
        later[4] = 2;
        assert_eq!(open(&later, &[key(2)]), Err(Refused::Version));
        // A later version may have any length.
        assert_eq!(open(&later[..40], &[key(2)]), Err(Refused::Version));
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(open(&longer, &[key(2)]), Err(Refused::Malformed));
        let nobody = Outside {
            sender: 0,
            ..OUTSIDE
        };
        let nobody = seal(&nobody, b"x", &key(2));
        assert_eq!(open(&nobody, &[key(2)]), Err(Refused::Malformed));
        let names: std::collections::HashSet<_> = Refused::ALL.map(Refused::name).into();
        assert_eq!(names.len(), Refused::ALL.len());
    }

    fn at(incarnation: u64, counter: u64) -> Outside {
        Outside {
            incarnation,
            counter,
            ..OUTSIDE
        }
    }

    #[test]
    fn a_guard_takes_each_message_once() {
        let mut guard = Guard::default();
        for counter in [1, 3, 2, 500] {
            assert_eq!(guard.accept(&at(7, counter)), Ok(()));
            assert_eq!(guard.accept(&at(7, counter)), Err(Refused::Replayed));
        }
        assert_eq!(guard.accept(&at(7, 0)), Err(Refused::Replayed));
        // Another sender has its own counters.
        let other = Outside {
            sender: 9,
            ..at(7, 3)
        };
        assert_eq!(guard.accept(&other), Ok(()));
    }

    #[test]
    fn an_earlier_start_is_over() {
        let mut guard = Guard::default();
        assert_eq!(guard.accept(&at(7, 40)), Ok(()));
        assert_eq!(guard.accept(&at(8, 1)), Ok(()));
        for counter in [40, 39, 1] {
            assert_eq!(guard.accept(&at(7, counter)), Err(Refused::Replayed));
        }
        // What it had not said before the later one spoke was said by a process that lives on.
        assert_eq!(guard.accept(&at(7, 41)), Err(Refused::DuplicateId));
        assert_eq!(guard.accept(&at(7, 41)), Err(Refused::Replayed));
        assert_eq!(guard.accept(&at(6, 1000)), Err(Refused::Replayed));
        assert_eq!(guard.accept(&at(8, 2)), Ok(()));
    }
}
