//! The Internet checksum (RFC 1071) and its incremental change (RFC 1624).

use crate::key::Addr;

/// The ones' complement sum of `bytes`, unfolded; odd length is padded with 0.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    let mut s: u64 = 0;
    for c in &mut chunks {
        s += u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
    }
    let r = chunks.remainder();
    let mut last = [0u8; 4];
    last[..r.len()].copy_from_slice(r);
    s + u64::from(u32::from_be_bytes(last))
}

/// The sum of the bytes `at..end` of something in several pieces.
pub fn sum_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>, at: usize, end: usize) -> u64 {
    let (mut offset, mut total) = (0, 0);
    for piece in pieces {
        let from = at.max(offset);
        let to = end.min(offset + piece.len());
        if from < to {
            let s = sum(&piece[from - offset..to - offset]);
            // A piece that starts at an odd byte counts its bytes the other way
            // round (RFC 1071, section 2, B).
            total += if (from - at) & 1 == 0 {
                s
            } else {
                u64::from(fold(s).swap_bytes())
            };
        }
        offset += piece.len();
    }
    total
}

/// Folds a sum to 16 bits.
#[inline]
pub fn fold(mut s: u64) -> u16 {
    s = (s & 0xffff_ffff) + (s >> 32);
    let s = (s as u32).wrapping_add((s >> 32) as u32);
    // The upper half becomes the sum of both, and the carry of the lower half's.
    (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
}

/// The sum of the pseudo-header of TCP and ICMPv6 (RFC 9293, section 3.1; RFC 8200,
/// section 8.1).
///
/// It serves both families: the prefix of an IPv4-mapped address adds 0xffff, which
/// is nothing in ones' complement.
#[inline]
pub fn pseudo(src: &Addr, dst: &Addr, proto: u8, len: usize) -> u64 {
    sum(&src.0) + sum(&dst.0) + u64::from(proto) + len as u64
}

/// A pending change of a checksum: what leaves and what comes, as one sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// Bytes at `offset` (from the start of the checksummed data) change from
    /// `old` to `new`, which are equally long.
    #[inline]
    pub fn replace(&mut self, offset: usize, old: &[u8], new: &[u8]) {
        debug_assert_eq!(old.len(), new.len());
        for (i, (&o, &n)) in old.iter().zip(new).enumerate() {
            let shift = if (offset + i) & 1 == 0 { 8 } else { 0 };
            self.0 += u64::from(!(u16::from(o) << shift)) + (u64::from(n) << shift);
        }
    }

    /// A 32-bit field at `offset` changes.
    ///
    /// Modulo 2^16 - 1 a long word is the sum of its halves, and a factor of 2^8 swaps
    /// their bytes, as an odd offset does (RFC 1071, section 2, B). The 0xffff is
    /// nothing there, and keeps a change from 0xffffffff to 0 from being nothing here.
    #[inline]
    pub fn long(&mut self, offset: usize, old: u32, new: u32) {
        let change = u64::from(!old) + u64::from(new) + 0xffff;
        self.0 += change << ((offset & 1) * 8);
    }

    /// A 16-bit field at an even offset changes.
    #[inline]
    pub fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// The new checksum: `HC' = ~(~HC + ~m + m')` (RFC 1624, equation 3).
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rfc1071(b: &[u8]) -> u16 {
        let mut s: u32 = 0;
        for c in b.chunks(2) {
            s += u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    /// Equal as ones' complement numbers: +0 and -0 are the same.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn a_long_word_is_its_bytes(
            at in 0usize..40,
            old in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
            new in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
            checksum in prop_oneof![any::<u16>(), Just(0), Just(u16::MAX)],
        ) {
            let (mut bytes, mut long) = (Delta::default(), Delta::default());
            bytes.replace(at, &old.to_be_bytes(), &new.to_be_bytes());
            long.long(at, old, new);
            prop_assert_eq!(bytes.apply(checksum), long.apply(checksum));
        }

        #[test]
        fn sum_is_rfc_1071(b in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(same(fold(sum(&b)), rfc1071(&b)));
        }

        #[test]
        fn pieces_sum_up(
            b in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(1usize..40, 0..20), at in 0usize..60, less in 0usize..60,
        ) {
            let at = at.min(b.len());
            let end = b.len().saturating_sub(less).max(at);
            let mut pieces = Vec::new();
            let mut rest = &b[..];
            for c in cuts {
                let (a, z) = rest.split_at(c.min(rest.len()));
                pieces.push(a);
                rest = z;
            }
            pieces.push(rest);
            let whole = sum(&b[at..end]);
            prop_assert!(same(fold(sum_pieces(pieces.into_iter(), at, end)), fold(whole)));
        }

        #[test]
        fn delta_is_a_recomputation(
            mut b in prop::collection::vec(any::<u8>(), 20..100),
            at in 0usize..16, new in prop::collection::vec(any::<u8>(), 1..5),
        ) {
            let before = !fold(sum(&b));
            let mut d = Delta::default();
            d.replace(at, &b[at..at + new.len()], &new);
            b[at..at + new.len()].copy_from_slice(&new);
            prop_assert!(same(!d.apply(before), fold(sum(&b))));
        }
    }
}
