//! What the kernel and the processor can be told about memory that is only hints: a
//! program that gives none does the same, later. And a cache line's comparison in as few
//! instructions as a processor has for it.

/// Bytes of a huge page on the machines that we know; on others the hint is coarser or
/// finer, and as harmless.
const HUGE: usize = 2 << 20;

/// An empty vector with room for `capacity` elements, in huge pages where the kernel
/// gives them on request (`madvise(2)`, `MADV_HUGEPAGE`).
///
/// A table of many megabytes in small pages costs a page-table walk per lookup. To
/// have all of it in huge pages, grow it within its capacity only.
#[must_use]
pub fn vec<T>(capacity: usize) -> Vec<T> {
    let mut v = Vec::<T>::with_capacity(capacity);
    let room = v.spare_capacity_mut();
    let (start, bytes) = (room.as_mut_ptr().addr(), size_of_val(room));
    let first = start.next_multiple_of(HUGE);
    let last = (start + bytes) / HUGE * HUGE;
    if first < last {
        let at = room.as_mut_ptr().cast::<u8>().wrapping_add(first - start);
        // SAFETY: the range lies inside the vector's own allocation, and the advice
        // changes no content. What the kernel answers does not matter.
        unsafe { libc::madvise(at.cast(), last - first, libc::MADV_HUGEPAGE) };
    }
    v
}

/// Asks for the cache line at the beginning of `of`.
#[inline(always)]
pub fn prefetch<T>(of: &T) {
    prefetch_line(of, 0);
}

/// Asks for the cache line at the beginning of the `n`-th of these.
#[inline(always)]
pub fn prefetch_nth<T>(of: &[T], n: usize) {
    prefetch_at(of.as_ptr().wrapping_add(n).cast());
}

/// Asks for the `line`-th cache line of 64 bytes of `of`, where there is one.
#[inline(always)]
pub fn prefetch_line<T>(of: &T, line: usize) {
    if line * 64 >= size_of::<T>().max(1) {
        return;
    }
    prefetch_at(std::ptr::from_ref(of).cast::<i8>().wrapping_add(line * 64));
}

#[inline(always)]
fn prefetch_at(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of any address does no harm.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch of any address does no harm.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at, options(nostack, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Which of 32 values are `x`: the i-th is bit i.
#[inline(always)]
#[must_use]
pub fn equal_u16(values: &[u16; 32], x: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "avx512bw"))]
    // SAFETY: the program is compiled for processors that have these instructions, and the
    // load takes the 64 bytes of `values` at any alignment.
    unsafe {
        use std::arch::x86_64::{_mm512_cmpeq_epi16_mask, _mm512_loadu_si512, _mm512_set1_epi16};
        let all = _mm512_loadu_si512(values.as_ptr().cast());
        _mm512_cmpeq_epi16_mask(all, _mm512_set1_epi16(x.cast_signed()))
    }
    #[cfg(all(target_arch = "x86_64", not(target_feature = "avx512bw")))]
    // SAFETY: SSE2 is part of x86-64, and the loads take 16 bytes each of `values` at any
    // alignment.
    unsafe {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        };
        let want = _mm_set1_epi16(x.cast_signed());
        let part = |i: usize| {
            let at = values.as_ptr().add(8 * i);
            _mm_cmpeq_epi16(_mm_loadu_si128(at.cast()), want)
        };
        let low = _mm_movemask_epi8(_mm_packs_epi16(part(0), part(1))).cast_unsigned();
        let high = _mm_movemask_epi8(_mm_packs_epi16(part(2), part(3))).cast_unsigned();
        low | high << 16
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let each = values.iter().enumerate();
        each.fold(0, |bits, (i, &v)| bits | u32::from(v == x) << i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_what_it_would_be() {
        for n in [0, 1, 1000, 1_000_000] {
            let mut v = vec::<u64>(n);
            assert!(v.is_empty() && v.capacity() >= n);
            v.extend(0..n as u64);
            assert_eq!(v.iter().sum::<u64>(), (0..n as u64).sum());
        }
        assert_eq!(vec::<()>(5), []);
    }

    /// The kernel has been told: it marks the mapping (`proc_pid_smaps(5)`).
    #[test]
    fn the_kernel_hears_it() {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        if !std::path::Path::new(path).exists() {
            // Nothing to be heard by a kernel without huge pages.
            return;
        }
        let v = vec::<u8>(64 << 20);
        let at = v.as_ptr().addr() + (32 << 20);
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            let hex = |s| usize::from_str_radix(s, 16);
            if let Some((Ok(from), Ok(to))) = range.map(|(a, b)| (hex(a), hex(b))) {
                inside = (from..to).contains(&at);
            }
            if inside && line.starts_with("VmFlags:") {
                return assert!(line.contains(" hg"), "{line}");
            }
        }
        panic!("the vector's mapping was not found");
    }

    #[test]
    fn equal_ones_are_found_where_they_are() {
        let mut values: [u16; 32] = std::array::from_fn(|i| i as u16 + 0x7ff0);
        for i in 0..32 {
            assert_eq!(equal_u16(&values, values[i]), 1 << i);
        }
        (values[0], values[9], values[31]) = (0xffff, 0xffff, 0xffff);
        assert_eq!(equal_u16(&values, 0xffff), 1 | 1 << 9 | 1 << 31);
        assert_eq!(equal_u16(&values, 1), 0);
        assert_eq!(equal_u16(&[0; 32], 0), u32::MAX);
    }

    #[test]
    fn prefetches_do_no_harm() {
        let v = [1u64; 32];
        prefetch(&v);
        for line in 0..10 {
            prefetch_line(&v, line);
        }
        prefetch(&());
        prefetch_nth(&v, 31);
        prefetch_nth(&v, usize::MAX);
        assert_eq!(v[31], 1);
    }
}
