//! A packet.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

/// What the receiving device says of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: it has to be verified in software.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// The field is not filled in, but the data is known to be intact: a peer
    /// on the same host left the sum to an offload (`RTE_MBUF_F_RX_*_CKSUM_NONE`).
    Partial,
}

/// One packet, of one or more segments, and its only owner. Dropping it returns
/// its buffers to their pools.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf belongs to one owner at a time, and returning it to its
// multi-producer pool is allowed in every thread.
unsafe impl Send for Mbuf {}
// SAFETY: shared references only read.
unsafe impl Sync for Mbuf {}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: `self` is the only owner, and it is going.
        unsafe { sys::dts_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field("segments", &self.nb_segs())
            .field("port", &self.port())
            .finish()
    }
}

/// A field of `struct rte_mbuf` by its offset. `T` is the field's C type.
#[inline(always)]
fn field<T>(mbuf: NonNull<sys::rte_mbuf>, offset: usize) -> *mut T {
    // SAFETY: the offset comes from `offsetof` in the same headers, so it lies
    // inside the structure.
    unsafe { mbuf.as_ptr().byte_add(offset).cast() }
}

/// The data of one segment: its start and its length.
#[inline(always)]
fn extent(mbuf: NonNull<sys::rte_mbuf>) -> (*mut u8, usize) {
    // SAFETY: a live segment's fields are readable, and DPDK keeps data_off and
    // data_len inside the buffer at buf_addr.
    unsafe {
        let addr: *mut u8 = field::<*mut u8>(mbuf, sys::DTS_MBUF_BUF_ADDR).read();
        let off = field::<u16>(mbuf, sys::DTS_MBUF_DATA_OFF).read();
        let len = field::<u16>(mbuf, sys::DTS_MBUF_DATA_LEN).read();
        (addr.add(off.into()), len.into())
    }
}

impl Mbuf {
    /// Takes ownership of `raw`.
    ///
    /// # Safety
    /// `raw` is a valid packet head that nothing else refers to: reference
    /// count 1 in all segments, no buffer shared with another mbuf.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Mbuf {
        Mbuf(raw)
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let (start, len) = extent(self.0);
        // SAFETY: `extent` is readable memory of this segment, borrowed with
        // `self`.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// The bytes of the first segment, to change in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (start, len) = extent(self.0);
        // SAFETY: as in `data`; this value is the buffer's only owner.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    /// Bytes of the packet, all segments together.
    #[inline]
    pub fn pkt_len(&self) -> u32 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u32>(self.0, sys::DTS_MBUF_PKT_LEN).read() }
    }

    /// The number of segments, at least 1.
    #[inline]
    pub fn nb_segs(&self) -> u16 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u16>(self.0, sys::DTS_MBUF_NB_SEGS).read() }
    }

    /// The bytes of each segment in order; `len()` tells how many.
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            next: Some(self.0),
            left: self.nb_segs(),
            packet: PhantomData,
        }
    }

    /// Copies `out.len()` bytes from offset `offset` of the packet, whatever its
    /// segments; false, and `out` unspecified, where the packet is shorter.
    pub fn copy_out(&self, offset: u32, out: &mut [u8]) -> bool {
        let Ok(len) = u32::try_from(out.len()) else {
            return false;
        };
        // SAFETY: `out` has room for `len` bytes and overlaps no mbuf.
        unsafe { sys::dts_pktmbuf_copy_out(self.0.as_ptr(), offset, len, out.as_mut_ptr().cast()) }
    }

    /// Bytes that `prepend` can still give.
    pub fn headroom(&self) -> u16 {
        // SAFETY: reads fields of a live mbuf.
        unsafe { sys::dts_pktmbuf_headroom(self.0.as_ptr()) }
    }

    /// Bytes that `append` can still give.
    pub fn tailroom(&self) -> u16 {
        // SAFETY: reads fields of a live mbuf.
        unsafe { sys::dts_pktmbuf_tailroom(self.0.as_ptr()) }
    }

    /// Adds `len` bytes in front and returns them, with whatever they held;
    /// `None` where the head room is too small.
    pub fn prepend(&mut self, len: u16) -> Option<&mut [u8]> {
        // SAFETY: this value owns the mbuf.
        let start = unsafe { sys::dts_pktmbuf_prepend(self.0.as_ptr(), len) };
        Self::grown(start.cast(), len)
    }

    /// Adds `len` bytes behind the last segment and returns them, with whatever
    /// they held; `None` where its tail room is too small.
    pub fn append(&mut self, len: u16) -> Option<&mut [u8]> {
        // SAFETY: this value owns the mbuf.
        let start = unsafe { sys::dts_pktmbuf_append(self.0.as_ptr(), len) };
        Self::grown(start.cast(), len)
    }

    fn grown<'a>(start: *mut u8, len: u16) -> Option<&'a mut [u8]> {
        // SAFETY: DPDK returned the start of `len` bytes inside a buffer that the
        // caller owns exclusively (its signature ties the lifetime to that), in
        // memory that was zeroed or written before.
        NonNull::new(start).map(|s| unsafe { slice::from_raw_parts_mut(s.as_ptr(), len.into()) })
    }

    /// Removes `len` bytes at the front; false, and nothing done, where the
    /// first segment is shorter.
    #[must_use]
    pub fn adj(&mut self, len: u16) -> bool {
        // SAFETY: this value owns the mbuf.
        !unsafe { sys::dts_pktmbuf_adj(self.0.as_ptr(), len) }.is_null()
    }

    /// Removes `len` bytes at the end; false, and nothing done, where the last
    /// segment is shorter.
    #[must_use]
    pub fn trim(&mut self, len: u16) -> bool {
        // SAFETY: this value owns the mbuf.
        unsafe { sys::dts_pktmbuf_trim(self.0.as_ptr(), len) == 0 }
    }

    /// Appends the segments of `tail`; gives it back where the packet would have
    /// too many segments.
    pub fn chain(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        // SAFETY: both packets are owned here; on success the head owns the
        // segments of the tail.
        match unsafe { sys::dts_pktmbuf_chain(self.0.as_ptr(), tail.0.as_ptr()) } {
            0 => {
                std::mem::forget(tail);
                Ok(())
            }
            _ => Err(tail),
        }
    }

    /// Moves the whole packet into its first segment; false, and nothing done,
    /// where that has no room.
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: this value owns the mbuf.
        unsafe { sys::dts_pktmbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// Makes the first segment hold at least `len` bytes; false, and nothing
    /// done, where the packet is shorter or the first segment has no room.
    #[must_use]
    pub fn pull(&mut self, len: u16) -> bool {
        // SAFETY: this value owns the mbuf.
        unsafe { sys::dts_pktmbuf_pull(self.0.as_ptr(), len) == 0 }
    }

    /// The port that received it, or what `set_port` set.
    #[inline]
    pub fn port(&self) -> u16 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u16>(self.0, sys::DTS_MBUF_PORT).read() }
    }

    /// Sets the port field.
    #[inline]
    pub fn set_port(&mut self, port: u16) {
        // SAFETY: this value owns the mbuf.
        unsafe { field::<u16>(self.0, sys::DTS_MBUF_PORT).write(port) }
    }

    /// The user tag. Rings keep it; neither allocation nor reception clears it:
    /// it is unspecified until `set_tag`.
    #[inline]
    pub fn tag(&self) -> u32 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u32>(self.0, sys::DTS_MBUF_TAG).read() }
    }

    /// Sets the user tag.
    #[inline]
    pub fn set_tag(&mut self, tag: u32) {
        // SAFETY: this value owns the mbuf.
        unsafe { field::<u32>(self.0, sys::DTS_MBUF_TAG).write(tag) }
    }

    #[inline]
    fn ol_flags(&self) -> u64 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).read() }
    }

    /// What the device says of the IPv4 header checksum.
    #[inline]
    pub fn ip_checksum(&self) -> RxChecksum {
        match self.ol_flags() & sys::DTS_RX_IP_CKSUM_MASK {
            sys::DTS_RX_IP_CKSUM_GOOD => RxChecksum::Good,
            sys::DTS_RX_IP_CKSUM_BAD => RxChecksum::Bad,
            sys::DTS_RX_IP_CKSUM_NONE => RxChecksum::Partial,
            _ => RxChecksum::Unknown,
        }
    }

    /// What the device says of the TCP or UDP checksum.
    #[inline]
    pub fn l4_checksum(&self) -> RxChecksum {
        match self.ol_flags() & sys::DTS_RX_L4_CKSUM_MASK {
            sys::DTS_RX_L4_CKSUM_GOOD => RxChecksum::Good,
            sys::DTS_RX_L4_CKSUM_BAD => RxChecksum::Bad,
            sys::DTS_RX_L4_CKSUM_NONE => RxChecksum::Partial,
            _ => RxChecksum::Unknown,
        }
    }

    /// Sets what `l4_checksum` says, as after the sum was verified or completed
    /// in software.
    pub fn set_l4_checksum(&mut self, state: RxChecksum) {
        let bits = match state {
            RxChecksum::Unknown => 0,
            RxChecksum::Good => sys::DTS_RX_L4_CKSUM_GOOD,
            RxChecksum::Bad => sys::DTS_RX_L4_CKSUM_BAD,
            RxChecksum::Partial => sys::DTS_RX_L4_CKSUM_NONE,
        };
        let flags = self.ol_flags() & !sys::DTS_RX_L4_CKSUM_MASK | bits;
        // SAFETY: this value owns the mbuf.
        unsafe { field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(flags) }
    }

    /// The receive hash, where the device delivered one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        // SAFETY: a live mbuf's field is readable.
        (self.ol_flags() & sys::DTS_RX_RSS_HASH != 0)
            .then(|| unsafe { field::<u32>(self.0, sys::DTS_MBUF_RSS).read() })
    }

    /// Asks for the first cache line of the data.
    #[inline(always)]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (start, _) = extent(self.0);
            // SAFETY: a prefetch reads nothing; any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast()) };
        }
    }

    /// The buffer bytes behind this segment's data room: for tests of pools.
    pub fn buf_len(&self) -> u16 {
        // SAFETY: a live mbuf's field is readable.
        unsafe { field::<u16>(self.0, sys::DTS_MBUF_BUF_LEN).read() }
    }
}

/// The segments of a packet in order.
pub struct Segments<'a> {
    next: Option<NonNull<sys::rte_mbuf>>,
    left: u16,
    packet: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        let (start, len) = extent(segment);
        // SAFETY: the chain is null-terminated and alive for 'a.
        self.next = NonNull::new(unsafe {
            field::<*mut sys::rte_mbuf>(segment, sys::DTS_MBUF_NEXT).read()
        });
        self.left = self.left.saturating_sub(1);
        // SAFETY: `extent` is readable memory of this segment, borrowed for 'a.
        Some(unsafe { slice::from_raw_parts(start, len) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Segments<'_> {}
