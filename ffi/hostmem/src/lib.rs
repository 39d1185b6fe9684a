//! What the kernel and the processor can be told about memory that is only hints: a
//! program that gives none does the same, later.

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

/// Asks for the `line`-th cache line of 64 bytes of `of`, where there is one.
#[inline(always)]
pub fn prefetch_line<T>(of: &T, line: usize) {
    if line * 64 >= size_of::<T>().max(1) {
        return;
    }
    let at = std::ptr::from_ref(of).cast::<i8>().wrapping_add(line * 64);
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
    fn prefetches_do_no_harm() {
        let v = [1u64; 32];
        prefetch(&v);
        for line in 0..10 {
            prefetch_line(&v, line);
        }
        prefetch(&());
        assert_eq!(v[31], 1);
    }
}
