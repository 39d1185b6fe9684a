//! The hello that nodes say to each other over the link, one UDP datagram.
//!
//! ```text
//! 0  magic "DTSH" | version 1 | key id | node id     8 bytes
//! 8  incarnation                                     8
//! 16 link MAC | 0                                    8
//! 24 counter                                         8
//! 32 authenticator (SipHash-2-4-128) over bytes 0-31 16
//! ```
//!
//! All numbers are big-endian.

use dts_core::wire::Mac;
use dts_proto::block::LinkKey;
use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a hello.
pub const LEN: usize = 48;
const MAGIC: [u8; 4] = *b"DTSH";
const VERSION: u8 = 1;
/// Keeps these authenticators apart from those of blocks.
const CONTEXT: &[u8] = b"hello v1";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Body {
    magic: [u8; 4],
    version: u8,
    key_id: u8,
    node: U16,
    incarnation: U64,
    link_mac: [u8; 6],
    zero: [u8; 2],
    counter: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    body: Body,
    tag: [u8; 16],
}

const _: () = assert!(size_of::<Raw>() == LEN);

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its id.
    pub node: u16,
    /// Its start, microseconds since the epoch.
    pub incarnation: u64,
    /// Its address on the link.
    pub link_mac: Mac,
    /// Increases with every hello of an incarnation.
    pub counter: u64,
}

/// Why a datagram is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Another length, magic or version, or a node id of 0.
    #[error("malformed hello")]
    Malformed,
    /// The authenticator is not of any valid key.
    #[error("the hello is not authentic")]
    Forged,
}

impl Hello {
    /// The datagram.
    #[must_use]
    pub fn encode(&self, key: &LinkKey) -> [u8; LEN] {
        let body = Body {
            magic: MAGIC,
            version: VERSION,
            key_id: key.id,
            node: self.node.into(),
            incarnation: self.incarnation.into(),
            link_mac: self.link_mac,
            zero: [0; 2],
            counter: self.counter.into(),
        };
        let tag = key.tag(CONTEXT, body.as_bytes());
        zerocopy::transmute!(Raw { body, tag })
    }

    /// Reads a datagram that one of `keys` authenticates.
    ///
    /// # Errors
    /// See [`HelloError`].
    pub fn decode(bytes: &[u8], keys: &[LinkKey]) -> Result<Self, HelloError> {
        let raw = Raw::ref_from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
        let body = &raw.body;
        if body.magic != MAGIC || body.version != VERSION || body.node.get() == 0 {
            return Err(HelloError::Malformed);
        }
        // Two keys may have one number.
        let mut named = keys.iter().filter(|k| k.id == body.key_id);
        if !named.any(|k| equal(&k.tag(CONTEXT, body.as_bytes()), &raw.tag)) {
            return Err(HelloError::Forged);
        }
        Ok(Self {
            node: body.node.get(),
            incarnation: body.incarnation.get(),
            link_mac: body.link_mac,
            counter: body.counter.get(),
        })
    }
}

/// Looks at every byte, so that its time does not tell how many are right.
fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        node: 0x0102,
        incarnation: 0x0304_0506_0708_090a,
        link_mac: [0x02, 0x11, 0x22, 0x33, 0x44, 0x55],
        counter: 0x0b0c_0d0e_0f10_1112,
    };

    fn key(id: u8) -> LinkKey {
        LinkKey::new(id, b"0123456789abcdef")
    }

    #[test]
    fn golden_bytes() {
        let bytes = HELLO.encode(&key(1));
        let body = [
            0x44, 0x54, 0x53, 0x48, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x02, 0x11, 0x22, 0x33,
            0x44, 0x55, 0, 0, 11, 12, 13, 14, 15, 16, 17, 18,
        ];
        assert_eq!(bytes[..32], body);
        assert_eq!(bytes[32..], GOLDEN_TAG);
        assert_eq!(Hello::decode(&bytes, &[key(1)]), Ok(HELLO));
    }

    /// By another implementation of SipHash (Python), over the derived key.
    const GOLDEN_TAG: [u8; 16] = [
        0x63, 0x64, 0xad, 0x5e, 0xdc, 0x62, 0xf6, 0xd8, 0x9c, 0x27, 0x21, 0x51, 0x7f, 0x2d, 0xb8,
        0x36,
    ];

    #[test]
    fn every_bit_is_covered() {
        let good = HELLO.encode(&key(1));
        for bit in 0..LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Hello::decode(&bad, &[key(1), key(0), key(3)]).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn lengths_and_keys() {
        let good = HELLO.encode(&key(2));
        assert_eq!(
            Hello::decode(&good[..LEN - 1], &[key(2)]),
            Err(HelloError::Malformed)
        );
        let longer: Vec<u8> = good.iter().copied().chain([0]).collect();
        assert_eq!(
            Hello::decode(&longer, &[key(2)]),
            Err(HelloError::Malformed)
        );
        assert_eq!(Hello::decode(&good, &[key(1)]), Err(HelloError::Forged));
        assert_eq!(Hello::decode(&good, &[key(1), key(2)]), Ok(HELLO));
        let other = LinkKey::new(2, b"another cluster.");
        assert_eq!(Hello::decode(&good, &[other]), Err(HelloError::Forged));
    }
}
