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

/// Where the headers of a TCP or UDP packet lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Bytes of the Ethernet header, VLAN tags included.
    pub l2: u16,
    /// Bytes of the IP header with its options or extension headers.
    pub l3: u16,
    /// Bytes of the TCP or UDP header.
    pub l4: u16,
    /// IPv6, else IPv4.
    pub ipv6: bool,
    /// TCP, else UDP.
    pub tcp: bool,
}

impl Headers {
    /// Where the payload begins.
    pub fn end(&self) -> usize {
        usize::from(self.l2) + usize::from(self.l3) + usize::from(self.l4)
    }
}

/// What a device is asked to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxRequest {
    /// Fill in the TCP or UDP checksum.
    Checksum,
    /// Cut it into TCP segments of this payload, with their checksums.
    Segment(u16),
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
    /// count 1 in all segments. Later segments may share their buffers with other
    /// packets, which then only read them; the first one's is its own.
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
    /// they held; `None` where its tail room is too small, or its buffer is shared.
    pub fn append(&mut self, len: u16) -> Option<&mut [u8]> {
        // SAFETY: reads fields of a live mbuf.
        if !unsafe { sys::dts_pktmbuf_tail_exclusive(self.0.as_ptr()) } {
            return None;
        }
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

    /// Cuts the packet to its first `len` bytes, at least 1; a shorter one stays as
    /// it is.
    pub fn truncate(&mut self, len: u32) {
        // SAFETY: this value owns the mbuf.
        unsafe { sys::dts_pktmbuf_truncate(self.0.as_ptr(), len) }
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

    /// No device has found anything wrong or left anything to be done, and the packet is no
    /// larger than it came from a wire. False for some of which that holds too.
    #[inline]
    pub fn is_plain(&self) -> bool {
        // "None" has the bit of "bad" too (rte_mbuf_core.h).
        let strange = sys::DTS_RX_IP_CKSUM_BAD | sys::DTS_RX_L4_CKSUM_BAD | sys::DTS_RX_LRO;
        self.ol_flags() & strange == 0
    }

    /// A device has found a checksum wrong.
    #[inline]
    pub fn is_bad(&self) -> bool {
        self.ip_checksum() == RxChecksum::Bad || self.l4_checksum() == RxChecksum::Bad
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

    /// True if there is nothing to be done before the packet can be sent by any
    /// device: its checksums are whole, and it is no larger than it came from a
    /// wire.
    #[inline]
    pub fn is_finished(&self) -> bool {
        let flags = self.ol_flags() & (sys::DTS_RX_LRO | sys::DTS_RX_L4_CKSUM_MASK);
        flags & sys::DTS_RX_LRO == 0 && flags != sys::DTS_RX_L4_CKSUM_NONE
    }

    /// Payload bytes of each of the segments for which the packet stands, where
    /// it stands for several.
    #[inline]
    pub fn segment_size(&self) -> Option<u16> {
        if self.ol_flags() & sys::DTS_RX_LRO == 0 {
            return None;
        }
        // SAFETY: a live mbuf's field is readable.
        let bits = unsafe { field::<u64>(self.0, sys::DTS_MBUF_TX_OFFLOAD).read() };
        // The mask has 16 bits.
        Some((bits >> sys::DTS_TX_TSO_SHIFT & sys::DTS_TX_TSO_MASK) as u16).filter(|&n| n > 0)
    }

    /// Sets what `segment_size` says.
    pub fn set_segment_size(&mut self, size: Option<u16>) {
        let bits = u64::from(size.unwrap_or(0)) << sys::DTS_TX_TSO_SHIFT;
        let lro = if size.is_some() { sys::DTS_RX_LRO } else { 0 };
        let flags = self.ol_flags() & !sys::DTS_RX_LRO | lro;
        // SAFETY: this value owns the mbuf.
        unsafe {
            field::<u64>(self.0, sys::DTS_MBUF_TX_OFFLOAD).write(bits);
            field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(flags);
        }
    }

    /// The headers of a TCP or UDP packet that is no fragment, where they lie in
    /// the first segment; `None` for anything else.
    pub fn headers(&self) -> Option<Headers> {
        let mut h = sys::dts_headers {
            l2: 0,
            l3: 0,
            l4: 0,
            version: 0,
            proto: 0,
        };
        // SAFETY: reads a live mbuf, writes to a structure of this frame.
        unsafe { sys::dts_pktmbuf_headers(self.0.as_ptr(), &mut h) }.then_some(Headers {
            l2: h.l2,
            l3: h.l3,
            l4: h.l4,
            ipv6: h.version == 6,
            tcp: h.proto == 6,
        })
    }

    /// Asks the device to do `what` with the packet, whose headers are `h`: what
    /// was received or asked for before is forgotten. [`crate::TxQueue::prepare`]
    /// must follow, or `finished`.
    pub fn request(&mut self, h: &Headers, what: TxRequest) {
        let ip = if h.ipv6 {
            sys::DTS_TX_IPV6
        } else {
            sys::DTS_TX_IPV4
        };
        let l4 = if h.tcp {
            sys::DTS_TX_TCP_CKSUM
        } else {
            sys::DTS_TX_UDP_CKSUM
        };
        let (segment, size) = match what {
            TxRequest::Checksum => (0, 0),
            TxRequest::Segment(size) if h.ipv6 => (sys::DTS_TX_TCP_SEG, size),
            TxRequest::Segment(size) => (sys::DTS_TX_TCP_SEG | sys::DTS_TX_IP_CKSUM, size),
        };
        let bits = u64::from(h.l2) << sys::DTS_TX_L2_LEN_SHIFT
            | u64::from(h.l3) << sys::DTS_TX_L3_LEN_SHIFT
            | u64::from(h.l4) << sys::DTS_TX_L4_LEN_SHIFT
            | u64::from(size) << sys::DTS_TX_TSO_SHIFT;
        let kind = self.ol_flags() & sys::DTS_MBUF_KIND;
        // SAFETY: this value owns the mbuf.
        unsafe {
            field::<u64>(self.0, sys::DTS_MBUF_TX_OFFLOAD).write(bits);
            field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(kind | ip | l4 | segment);
        }
    }

    /// Forgets everything that was received or requested: the packet is to be
    /// sent as it is.
    pub fn finished(&mut self) {
        self.reset(self.ol_flags() & sys::DTS_MBUF_KIND);
    }

    /// As `finished` for a buffer that is known to have data of its own.
    pub(crate) fn fresh(&mut self) {
        self.reset(0);
    }

    fn reset(&mut self, flags: u64) {
        // SAFETY: this value owns the mbuf.
        unsafe {
            field::<u64>(self.0, sys::DTS_MBUF_TX_OFFLOAD).write(0);
            field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(flags);
        }
    }

    /// Takes the outermost VLAN tag off, in software where the device has not
    /// done so; its control information (priority, VLAN id), or `None` for a
    /// frame without a tag.
    #[inline]
    pub fn take_vlan(&mut self) -> Option<u16> {
        let flags = self.ol_flags();
        if flags & sys::DTS_RX_VLAN_STRIPPED == 0 {
            // SAFETY: this value owns the mbuf.
            if !unsafe { sys::dts_vlan_strip(self.0.as_ptr()) } {
                return None;
            }
        }
        let flags = self.ol_flags() & !(sys::DTS_RX_VLAN_STRIPPED | sys::DTS_RX_VLAN);
        // SAFETY: this value owns the mbuf; the tag was written by the device or
        // above.
        unsafe {
            field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(flags);
            Some(field::<u16>(self.0, sys::DTS_MBUF_VLAN_TCI).read())
        }
    }

    /// Puts a VLAN tag behind the Ethernet addresses; false, and nothing done,
    /// where the head room is too small.
    #[must_use]
    pub fn insert_vlan(&mut self, tci: u16) -> bool {
        // SAFETY: this value owns the mbuf.
        unsafe {
            field::<u16>(self.0, sys::DTS_MBUF_VLAN_TCI).write(tci);
            sys::dts_vlan_insert(self.0.as_ptr())
        }
    }

    /// Leaves the VLAN tag to the device, which must have the offload.
    #[inline]
    pub fn request_vlan(&mut self, tci: u16) {
        let flags = self.ol_flags() | sys::DTS_TX_VLAN;
        // SAFETY: this value owns the mbuf.
        unsafe {
            field::<u16>(self.0, sys::DTS_MBUF_VLAN_TCI).write(tci);
            field::<u64>(self.0, sys::DTS_MBUF_OL_FLAGS).write(flags);
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mbuf {
        self.0.as_ptr()
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
