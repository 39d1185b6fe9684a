//! What a device leaves to us, and what we leave to a device: VLAN tags, checksums
//! that a stack has not filled in, and frames that stand for many.
//!
//! A frame that came from a wire and goes on as it is passes by all of this with one
//! test ([`Finish::passes`]).

use dpdk::{Gso, Headers, Mbuf, Mempool, RxChecksum, TxRequest};
use dts_core::drops::Drop;
use dts_core::wire::checksum;
use dts_core::wire::tcp::{CWR, FIN, PSH};

use crate::egress::Sink;

/// What frames need before a port sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finish {
    /// Bytes of the longest frame: Ethernet header and MTU, no tag.
    pub(crate) max: u32,
    /// The VLAN of the port.
    pub(crate) vlan: Option<u16>,
    /// The device puts the tag in.
    pub(crate) inserts: bool,
    /// The device takes packets of several segments.
    pub(crate) segments: bool,
    /// The device fills in TCP and UDP checksums.
    pub(crate) checksum: bool,
    /// The device cuts large packets into TCP segments.
    pub(crate) tso: bool,
}

impl Finish {
    /// True for a frame to which nothing is to be done.
    #[inline]
    pub(crate) fn passes(&self, mbuf: &Mbuf) -> bool {
        (mbuf.is_plain() || mbuf.is_finished())
            && mbuf.pkt_len() <= self.max
            && self.vlan.is_none()
            && (self.segments || mbuf.nb_segs() == 1)
    }
}

/// Frames that were finished, by what had to be done and who did it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Checksums that devices were asked for.
    pub(crate) checksum_device: u64,
    /// Checksums that were filled in here.
    pub(crate) checksum_software: u64,
    /// Large frames that devices were asked to cut.
    pub(crate) tso_device: u64,
    /// Large frames that were cut here.
    pub(crate) tso_software: u64,
}

/// What a worker finishes frames with.
pub(crate) struct Offload {
    pool: Mempool,
    gso: Option<Gso>,
    /// Room for what becomes of one frame.
    pub(crate) frames: Vec<Mbuf>,
    pub(crate) counts: Finished,
}

impl Offload {
    /// New segments' buffers are `pool`'s; `gso` is wanted where large frames come.
    pub(crate) fn new(pool: Mempool, gso: Option<Gso>) -> Self {
        Self {
            pool,
            gso,
            frames: Vec::new(),
            counts: Finished::default(),
        }
    }

    /// Makes of `mbuf` what `queue` can send, in order behind what is in `done`.
    #[cold]
    pub(crate) fn finish<Q: Sink>(
        &mut self,
        p: &Finish,
        queue: &mut Q,
        mut mbuf: Mbuf,
        done: &mut Vec<Mbuf>,
    ) -> Result<(), Drop> {
        if mbuf.is_finished() {
            if mbuf.pkt_len() > p.max {
                return Err(Drop::TooLong);
            }
            mbuf.finished();
            return self.deliver(p, mbuf, done);
        }
        let h = mbuf.headers().ok_or(Drop::Unfinished)?;
        let end = datagram_end(&mbuf, &h).ok_or(Drop::Malformed)?;
        mbuf.truncate(end);
        let payload = end as usize - h.end();
        // The Ethernet header and the MTU, 576 at least, have room for headers.
        let room = (p.max as usize).saturating_sub(h.end());
        let size = mbuf.segment_size().map(|n| usize::from(n).min(room));
        match size {
            Some(size @ 1..) if h.tcp && payload > size => {
                // No more than 64 KiB.
                self.cut(p, queue, mbuf, &h, size as u16, done)
            }
            _ if end > p.max => Err(Drop::TooLong),
            _ => self.sum(p, queue, mbuf, &h, done),
        }
    }

    /// A frame that needs its checksum.
    fn sum<Q: Sink>(
        &mut self,
        p: &Finish,
        queue: &mut Q,
        mbuf: Mbuf,
        h: &Headers,
        done: &mut Vec<Mbuf>,
    ) -> Result<(), Drop> {
        let mut mbuf = mbuf;
        if p.checksum {
            mbuf = self.whole(p, mbuf)?;
            match ask(p, queue, mbuf, h, TxRequest::Checksum) {
                Ok(mbuf) => {
                    self.counts.checksum_device += 1;
                    done.push(mbuf);
                    return Ok(());
                }
                Err(back) => mbuf = back,
            }
        }
        self.counts.checksum_software += 1;
        mbuf.finished();
        if !complete(&mut mbuf, h) {
            return Err(Drop::Malformed);
        }
        self.deliver(p, mbuf, done)
    }

    /// A frame that stands for several, of `size` bytes of payload each.
    fn cut<Q: Sink>(
        &mut self,
        p: &Finish,
        queue: &mut Q,
        mut mbuf: Mbuf,
        h: &Headers,
        size: u16,
        done: &mut Vec<Mbuf>,
    ) -> Result<(), Drop> {
        if p.tso {
            match ask(p, queue, mbuf, h, TxRequest::Segment(size)) {
                Ok(mbuf) => {
                    self.counts.tso_device += 1;
                    done.push(mbuf);
                    return Ok(());
                }
                Err(back) => mbuf = back,
            }
        }
        self.counts.tso_software += 1;
        let mut segments = Vec::new();
        let left = match &mut self.gso {
            Some(gso) if p.segments && !h.ipv6 => {
                gso.segment(mbuf, h, size, |s| segments.push(s)).err()
            }
            _ => Some(mbuf),
        };
        if let Some(mbuf) = left {
            copy_segments(&self.pool, &mbuf, h, size.into(), &mut segments)
                .ok_or(Drop::NoBuffer)?;
        }
        for (i, mut segment) in segments.into_iter().enumerate() {
            if i > 0 {
                // The sender has reduced its window once (RFC 3168, section 6.1.2).
                segment.data_mut()[usize::from(h.l2 + h.l3) + 13] &= !CWR;
            }
            if !h.ipv6 {
                sum_ipv4(&mut segment, h);
            }
            self.sum(p, queue, segment, h, done)?;
        }
        Ok(())
    }

    /// The frame, tagged, in as many segments as the device takes.
    fn deliver(&mut self, p: &Finish, mbuf: Mbuf, done: &mut Vec<Mbuf>) -> Result<(), Drop> {
        let mut mbuf = self.whole(p, mbuf)?;
        if !tag(p, &mut mbuf) {
            return Err(Drop::NoBuffer);
        }
        done.push(mbuf);
        Ok(())
    }

    /// The frame in one segment where the device takes no others.
    fn whole(&mut self, p: &Finish, mut mbuf: Mbuf) -> Result<Mbuf, Drop> {
        if p.segments || mbuf.nb_segs() == 1 || mbuf.linearize() {
            return Ok(mbuf);
        }
        let len = u16::try_from(mbuf.pkt_len()).map_err(|_| Drop::TooLong)?;
        let mut copy = self.pool.alloc().ok_or(Drop::NoBuffer)?;
        let bytes = copy.append(len).ok_or(Drop::TooLong)?;
        if !mbuf.copy_out(0, bytes) {
            return Err(Drop::Malformed);
        }
        Ok(copy)
    }
}

/// Asks the device; what it cannot do comes back without a tag.
fn ask<Q: Sink>(
    p: &Finish,
    queue: &mut Q,
    mut mbuf: Mbuf,
    h: &Headers,
    what: TxRequest,
) -> Result<Mbuf, Mbuf> {
    mbuf.request(h, what);
    let tagged = tag(p, &mut mbuf);
    if tagged && queue.prepare(&mut mbuf) {
        return Ok(mbuf);
    }
    mbuf.finished();
    if tagged && p.vlan.is_some() && !p.inserts {
        mbuf.take_vlan();
    }
    if !h.ipv6 {
        // The driver may have cleared it for the device.
        sum_ipv4(&mut mbuf, h);
    }
    Err(mbuf)
}

/// Gives the frame the port's tag.
fn tag(p: &Finish, mbuf: &mut Mbuf) -> bool {
    match p.vlan {
        None => true,
        Some(id) if p.inserts => {
            mbuf.request_vlan(id);
            true
        }
        Some(id) => mbuf.insert_vlan(id),
    }
}

/// Takes the tag of the port's VLAN off a received frame.
#[inline]
pub(crate) fn untag(mbuf: &mut Mbuf, id: u16) -> Result<(), Drop> {
    match mbuf.take_vlan().map(|tci| tci & 0xfff) {
        Some(vid) if vid == id => Ok(()),
        // A priority tag is no VLAN's (IEEE 802.1Q, table 9-2).
        None | Some(0) => Err(Drop::VlanUntagged),
        Some(_) => Err(Drop::VlanOther),
    }
}

/// Takes priority tags off (VLAN id 0, IEEE 802.1Q, table 9-2), however many: a stack
/// passes over them, so that what is behind them would reach it without having been
/// looked at.
///
/// # Errors
/// A service tag (IEEE 802.1ad) with VLAN id 0, which stacks pass over as well and no
/// port of ours has; and a frame that is too short for its tag.
#[inline]
pub(crate) fn strip_priority(mbuf: &mut Mbuf) -> Result<(), Drop> {
    while let Some(&[tpid, low, tci, vid]) = mbuf.data().get(12..16).and_then(|t| t.first_chunk()) {
        let none = tci & 0x0f == 0 && vid == 0;
        match u16::from_be_bytes([tpid, low]) {
            0x8100 if none => mbuf.take_vlan().map(|_| ()).ok_or(Drop::Malformed)?,
            0x88a8 if none => return Err(Drop::VlanOther),
            _ => break,
        }
    }
    Ok(())
}

/// Fills in the checksum of a received frame that lacks it, as a virtual NIC hands
/// frames of its own host over. What waits in buffers or goes to another node must
/// be whole.
#[cold]
pub(crate) fn complete_received(mbuf: &mut Mbuf) {
    let state = match mbuf.headers() {
        Some(h) if complete(mbuf, &h) => RxChecksum::Good,
        _ => RxChecksum::Unknown,
    };
    mbuf.set_l4_checksum(state);
}

fn be16(b: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([b[at], b[at + 1]]))
}

/// Where the datagram ends in the packet; `None` where the packet is shorter, or the
/// datagram than its headers.
fn datagram_end(mbuf: &Mbuf, h: &Headers) -> Option<u32> {
    let (data, l3) = (mbuf.data(), usize::from(h.l2));
    let end = if h.ipv6 {
        l3 + 40 + be16(data, l3 + 4)
    } else {
        l3 + be16(data, l3 + 2)
    };
    let end = u32::try_from(end).ok()?;
    (end as usize >= h.end() && end <= mbuf.pkt_len()).then_some(end)
}

/// Computes and writes the TCP or UDP checksum; false where lengths contradict.
fn complete(mbuf: &mut Mbuf, h: &Headers) -> bool {
    let Some(end) = datagram_end(mbuf, h) else {
        return false;
    };
    let (l3, l4) = (usize::from(h.l2), usize::from(h.l2 + h.l3));
    let field = l4 + if h.tcp { 16 } else { 6 };
    let data = mbuf.data_mut();
    data[field..field + 2].fill(0);
    let addresses = if h.ipv6 {
        &data[l3 + 8..l3 + 40]
    } else {
        &data[l3 + 12..l3 + 20]
    };
    let proto = if h.tcp { 6 } else { 17 };
    let end = end as usize;
    let pseudo = checksum::sum(addresses) + proto + (end - l4) as u64;
    let sum = checksum::fold(pseudo + checksum::sum_pieces(mbuf.segments(), l4, end));
    // In UDP 0 means "no checksum" (RFC 768).
    let sum = if !h.tcp && sum == 0xffff { sum } else { !sum };
    mbuf.data_mut()[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Computes and writes the checksum of the IPv4 header.
fn sum_ipv4(mbuf: &mut Mbuf, h: &Headers) {
    let l3 = usize::from(h.l2);
    let header = &mut mbuf.data_mut()[l3..l3 + usize::from(h.l3)];
    header[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Copies the packet into segments of `size` payload bytes, for IPv6, which
/// `librte_gso` 22.11 does not know, and for devices that take one buffer only. All
/// is right in them but the checksums.
fn copy_segments(
    pool: &Mempool,
    mbuf: &Mbuf,
    h: &Headers,
    size: usize,
    to: &mut Vec<Mbuf>,
) -> Option<()> {
    let (l3, l4, start) = (usize::from(h.l2), usize::from(h.l2 + h.l3), h.end());
    let end = mbuf.pkt_len() as usize;
    let headers = mbuf.data().get(..start)?;
    let seq = u32::from_be_bytes(headers[l4 + 4..l4 + 8].try_into().ok()?);
    for (i, at) in (start..end).step_by(size).enumerate() {
        let n = size.min(end - at);
        let mut segment = pool.alloc()?;
        let bytes = segment.append(u16::try_from(start + n).ok()?)?;
        bytes[..start].copy_from_slice(headers);
        if !mbuf.copy_out(u32::try_from(at).ok()?, &mut bytes[start..]) {
            return None;
        }
        // Both fit: a frame has 64 KiB at most, a segment less.
        let datagram = start + n - l3;
        if h.ipv6 {
            let payload = (datagram - 40) as u16;
            bytes[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
        } else {
            let id = (be16(headers, l3 + 4) as u16).wrapping_add(i as u16);
            bytes[l3 + 2..l3 + 4].copy_from_slice(&(datagram as u16).to_be_bytes());
            bytes[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
        }
        let seq = seq.wrapping_add((at - start) as u32);
        bytes[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if at + n < end {
            bytes[l4 + 13] &= !(PSH | FIN);
        }
        to.push(segment);
    }
    Some(())
}

#[cfg(test)]
#[path = "offload_tests.rs"]
pub(crate) mod tests;
