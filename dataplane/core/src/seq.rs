//! Sequence numbers modulo 2^32, compared only by signed difference (RFC 9293,
//! section 3.4).

use crate::mutation::{Mutation, broken};

/// `a` lies before `b`.
#[inline]
pub fn lt(a: u32, b: u32) -> bool {
    if broken(Mutation::PlainCompare) {
        return a < b;
    }
    (a.wrapping_sub(b) as i32) < 0
}

/// `a` lies before `b` or is equal to it.
#[inline]
pub fn le(a: u32, b: u32) -> bool {
    if broken(Mutation::PlainCompare) {
        return a <= b;
    }
    (a.wrapping_sub(b) as i32) <= 0
}

/// The later of the two.
#[inline]
pub fn max(a: u32, b: u32) -> u32 {
    if lt(a, b) { b } else { a }
}

/// `v` moved into `[low, high]`; `low` wins when the range is empty.
#[inline]
pub fn clamp(v: u32, low: u32, high: u32) -> u32 {
    let v = if lt(high, v) { high } else { v };
    if lt(v, low) { low } else { v }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_both_wraps() {
        for base in [0u32, 1, 0x7fff_fff0, 0x8000_0000, 0xffff_fff0, u32::MAX] {
            let b = base.wrapping_add(100);
            assert!(lt(base, b) && le(base, b) && !lt(b, base) && le(base, base));
            assert_eq!(max(base, b), b);
            assert_eq!(max(b, base), b);
            assert_eq!(clamp(base.wrapping_sub(5), base, b), base);
            assert_eq!(clamp(b.wrapping_add(5), base, b), b);
            assert_eq!(clamp(base.wrapping_add(5), base, b), base.wrapping_add(5));
        }
    }
}
