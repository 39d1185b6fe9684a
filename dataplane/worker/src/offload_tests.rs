//! Called by the one test of this crate that has an EAL.

use super::*;
use dpdk::Burst;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

const SRC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SEQ: u32 = 0xffff_f000;
const ID: u16 = 0xfffe;

/// A device that does what it is asked for, or not.
struct Device(bool);

impl Sink for Device {
    fn take(&mut self, _: &mut Burst) -> usize {
        0
    }
    fn prepare(&mut self, _: &mut Mbuf) -> bool {
        self.0
    }
}

const SOFTWARE: Finish = Finish {
    max: 1514,
    vlan: None,
    inserts: false,
    segments: true,
    checksum: false,
    tso: false,
};

pub(crate) fn all(pool: &Mempool) {
    let gso = Gso::new("offload", 127, 0).unwrap();
    let mut offload = Offload::new(pool.clone(), Some(gso.share()));
    for size in [1, 1448, 1449, 2896, 40_000, 64_240] {
        for ipv6 in [false, true] {
            for segments in [false, true] {
                for vlan in [None, Some(7)] {
                    let p = Finish {
                        segments,
                        vlan,
                        ..SOFTWARE
                    };
                    cut_in_software(pool, &mut offload, p, size, ipv6);
                }
            }
        }
    }
    assert_eq!(gso.in_use(), 0);
    left_to_the_device(pool, &mut offload);
    single_frames(pool, &mut offload);
    what_cannot_be_finished(pool, &mut offload);
    tags(pool);
    out_of_buffers(pool);
    assert_eq!((gso.in_use(), pool.in_use()), (0, 0));
}

fn payload(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A TCP frame with PSH, FIN and CWR whose checksum covers the pseudo-header only,
/// as a stack hands it to a device with offloads.
fn frame(pool: &Mempool, bytes: usize, ipv6: bool, size: Option<u16>) -> Mbuf {
    let mut tcp = TcpHeader::new(80, 40_000, SEQ, 500);
    tcp.acknowledgment_number = 77;
    (tcp.ack, tcp.psh, tcp.fin, tcp.cwr) = (true, true, true, true);
    tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        .unwrap();
    let b = PacketBuilder::ethernet2(SRC, DST);
    let mut out = Vec::new();
    let body = payload(bytes);
    if ipv6 {
        let b = b.ipv6([1; 16], [2; 16], 64);
        b.tcp_header(tcp).write(&mut out, &body).unwrap();
    } else {
        let mut ip =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, [1; 4], [2; 4]).unwrap();
        ip.identification = ID;
        ip.dont_fragment = true;
        let b = b.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
        b.tcp_header(tcp).write(&mut out, &body).unwrap();
    }
    let field = 14 + if ipv6 { 40 } else { 20 } + 16;
    out[field..field + 2].copy_from_slice(&[0xde, 0xad]);
    let mut mbuf = pool.alloc_all(&out).unwrap();
    mbuf.set_l4_checksum(RxChecksum::Partial);
    mbuf.set_segment_size(size);
    assert!(!mbuf.is_finished() && !SOFTWARE.passes(&mbuf));
    mbuf
}

fn bytes(mbuf: &Mbuf) -> Vec<u8> {
    mbuf.segments().flatten().copied().collect()
}

fn cut_in_software(pool: &Mempool, o: &mut Offload, p: Finish, n: usize, ipv6: bool) {
    let mut done = Vec::new();
    let before = o.counts;
    let mbuf = frame(pool, n, ipv6, Some(1448));
    o.finish(&p, &mut Device(false), mbuf, &mut done).unwrap();
    // A stack knows the MTU; should it not, the wire's counts.
    let size = if ipv6 { 1428 } else { 1448 };
    assert_eq!(done.len(), n.div_ceil(size));
    let cut = u64::from(n > size);
    assert_eq!(o.counts.tso_software - before.tso_software, cut);
    assert_eq!(
        o.counts.checksum_software - before.checksum_software,
        done.len() as u64
    );
    let tag = if p.vlan.is_some() { 4 } else { 0 };
    let mut joined = Vec::new();
    for (i, mbuf) in done.iter().enumerate() {
        assert!(p.segments || mbuf.nb_segs() == 1);
        assert!(mbuf.is_finished() && mbuf.pkt_len() <= p.max + tag);
        assert!(mbuf.segments().all(|s| !s.is_empty()), "no empty segment");
        let bytes = bytes(mbuf);
        let s = SlicedPacket::from_ethernet(&bytes).unwrap();
        let vid = s.vlan_ids();
        assert_eq!(
            vid.first().map(|v| v.value()),
            p.vlan,
            "the tag is in every segment"
        );
        let Some(TransportSlice::Tcp(tcp)) = &s.transport else {
            panic!("no TCP")
        };
        let sum = match s.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let h = ip.header();
                assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
                assert_eq!(h.identification(), ID.wrapping_add(i as u16));
                assert!(h.dont_fragment());
                tcp.calc_checksum_ipv4(h.source(), h.destination()).unwrap()
            }
            NetSlice::Ipv6(ip) => {
                let h = ip.header().to_header();
                tcp.calc_checksum_ipv6(h.source, h.destination).unwrap()
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        assert_eq!(tcp.checksum(), sum);
        assert_eq!(tcp.sequence_number(), SEQ.wrapping_add(joined.len() as u32));
        assert_eq!((tcp.acknowledgment_number(), tcp.window_size()), (77, 500));
        let (first, last) = (i == 0, i + 1 == done.len());
        assert_eq!((tcp.psh(), tcp.fin(), tcp.cwr()), (last, last, first));
        assert_eq!(tcp.options(), [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        joined.extend_from_slice(tcp.payload());
    }
    assert_eq!(joined, payload(n));
}

/// A device that can gets the frame whole; one that refuses it gets segments.
fn left_to_the_device(pool: &Mempool, o: &mut Offload) {
    let p = Finish {
        checksum: true,
        tso: true,
        ..SOFTWARE
    };
    for ipv6 in [false, true] {
        for (vlan, inserts) in [(None, false), (Some(9), false), (Some(9), true)] {
            let p = Finish { vlan, inserts, ..p };
            let mut done = Vec::new();
            let before = o.counts;
            let mbuf = frame(pool, 60_000, ipv6, Some(1448));
            let len = mbuf.pkt_len();
            o.finish(&p, &mut Device(true), mbuf, &mut done).unwrap();
            assert_eq!(
                (done.len(), o.counts.tso_device),
                (1, before.tso_device + 1)
            );
            let tag = if vlan.is_some() && !inserts { 4 } else { 0 };
            assert_eq!(done[0].pkt_len(), len + tag);
            let mbuf = frame(pool, 60_000, ipv6, Some(1448));
            done.clear();
            o.finish(&p, &mut Device(false), mbuf, &mut done).unwrap();
            let size = if ipv6 { 1428 } else { 1448 };
            assert_eq!(done.len(), 60_000usize.div_ceil(size));
            assert_eq!(o.counts.tso_software, before.tso_software + 1);
            let tagged = done.iter().all(|m| m.data()[12..14] == [0x81, 0]);
            assert_eq!(tagged, vlan.is_some() && !inserts);
            assert!(done.iter().all(|m| m.pkt_len() <= p.max + 4));
            // Segments without checksum offload are right by themselves.
            let first = bytes(&done[0]);
            let s = SlicedPacket::from_ethernet(&first).unwrap();
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&s.net, &s.transport)
            else {
                continue;
            };
            let h = ip.header();
            assert_eq!(h.header_checksum(), h.to_header().calc_header_checksum());
            assert_eq!(
                tcp.checksum(),
                tcp.calc_checksum_ipv4(h.source(), h.destination()).unwrap()
            );
        }
    }
    // A NIC that fills in checksums but cuts nothing.
    let p = Finish {
        checksum: true,
        ..SOFTWARE
    };
    let mut done = Vec::new();
    let before = o.counts;
    let mbuf = frame(pool, 2000, false, Some(1448));
    o.finish(&p, &mut Device(true), mbuf, &mut done).unwrap();
    assert_eq!(done.len(), 2);
    assert_eq!(o.counts.checksum_device, before.checksum_device + 2);
}

fn single_frames(pool: &Mempool, o: &mut Offload) {
    // A segment size above what the wire takes is cut down to it.
    let mut done = Vec::new();
    let mbuf = frame(pool, 9000, false, Some(8948));
    o.finish(&SOFTWARE, &mut Device(false), mbuf, &mut done)
        .unwrap();
    assert!(done.iter().all(|m| m.pkt_len() <= 1514) && done.len() == 7);
    // UDP, whose checksum has no 0.
    for last in 0..=u8::MAX {
        let mut out = Vec::new();
        let body = [0, 0, 0xff, last];
        PacketBuilder::ethernet2(SRC, DST)
            .ipv4([0; 4], [0; 4], 64)
            .udp(0, 0)
            .write(&mut out, &body)
            .unwrap();
        let right = out.clone();
        out[40..42].copy_from_slice(&[0xde, 0xad]);
        // What Ethernet has behind a short datagram counts for nothing.
        out.resize(60, 0xff);
        let mut mbuf = pool.alloc_all(&out).unwrap();
        mbuf.set_l4_checksum(RxChecksum::Partial);
        done.clear();
        o.finish(&SOFTWARE, &mut Device(false), mbuf, &mut done)
            .unwrap();
        assert_eq!(bytes(&done[0]), right);
    }
    // Frames in pieces to a device that takes none.
    let p = Finish {
        segments: false,
        ..SOFTWARE
    };
    let mut two = pool.alloc_from(&[1; 60]).unwrap();
    two.chain(pool.alloc_from(&[2; 600]).unwrap()).unwrap();
    assert!(SOFTWARE.passes(&two) && !p.passes(&two));
    done.clear();
    o.finish(&p, &mut Device(false), two, &mut done).unwrap();
    assert_eq!((done[0].nb_segs(), done[0].pkt_len()), (1, 660));
    // A virtual NIC's frame of its own host: whole before anything is done with it.
    let mut mbuf = frame(pool, 100, false, None);
    complete_received(&mut mbuf);
    assert_eq!(mbuf.l4_checksum(), RxChecksum::Good);
    assert!(SOFTWARE.passes(&mbuf));
}

fn what_cannot_be_finished(pool: &Mempool, o: &mut Offload) {
    let mut finish = |mbuf| {
        let mut done = Vec::new();
        let result = o.finish(&SOFTWARE, &mut Device(false), mbuf, &mut done);
        assert!(result.is_ok() || done.is_empty());
        result
    };
    let long = pool.alloc_from(&[0; 1515]).unwrap();
    assert!(!SOFTWARE.passes(&long));
    assert_eq!(finish(long), Err(Drop::TooLong));
    assert_eq!(
        finish(frame(pool, 3000, false, None)),
        Err(Drop::TooLong),
        "larger than the wire's, and nobody said how to cut it"
    );
    let mut icmp = Vec::new();
    PacketBuilder::ethernet2(SRC, DST)
        .ipv4([1; 4], [2; 4], 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut icmp, &[0; 20])
        .unwrap();
    let mut mbuf = pool.alloc_from(&icmp).unwrap();
    mbuf.set_l4_checksum(RxChecksum::Partial);
    assert_eq!(finish(mbuf), Err(Drop::Unfinished));
    let mut mbuf = frame(pool, 100, false, None);
    mbuf.data_mut()[16..18].copy_from_slice(&5000u16.to_be_bytes());
    assert_eq!(finish(mbuf), Err(Drop::Malformed));
    let mut mbuf = frame(pool, 3000, true, Some(1440));
    mbuf.data_mut()[18..20].copy_from_slice(&4u16.to_be_bytes());
    assert_eq!(finish(mbuf), Err(Drop::Malformed));
}

fn tags(pool: &Mempool) {
    let tagged = |tci: u16| {
        let mut f = [0u8; 64];
        f[..6].copy_from_slice(&DST);
        f[6..12].copy_from_slice(&SRC);
        f[12..14].copy_from_slice(&[0x81, 0]);
        f[14..16].copy_from_slice(&tci.to_be_bytes());
        f[16..18].copy_from_slice(&[8, 0]);
        pool.alloc_from(&f).unwrap()
    };
    for (tci, is) in [
        (7, Ok(())),
        (0xe007, Ok(())),
        (8, Err(Drop::VlanOther)),
        (0x1007, Ok(())),
        (0x0fff, Err(Drop::VlanOther)),
        (0, Err(Drop::VlanUntagged)),
        (0xe000, Err(Drop::VlanUntagged)),
    ] {
        let mut mbuf = tagged(tci);
        assert_eq!(untag(&mut mbuf, 7), is, "{tci:#x}");
        if is.is_ok() {
            assert_eq!((mbuf.data().len(), &mbuf.data()[12..14]), (60, &[8, 0][..]));
            assert_eq!(mbuf.data()[..12], [DST, SRC].concat());
        }
    }
    let mut plain = pool.alloc_from(&[0; 60]).unwrap();
    assert_eq!(untag(&mut plain, 7), Err(Drop::VlanUntagged));
    let mut short = pool.alloc_from(&[0x81, 0, 1]).unwrap();
    assert_eq!(untag(&mut short, 7), Err(Drop::VlanUntagged));
    priority(pool);
}

/// Tags that a stack would pass over come off, whoever is behind them.
fn priority(pool: &Mempool) {
    let with = |tags: &[[u8; 4]]| {
        let mut f = [DST, SRC].concat();
        f.extend_from_slice(tags.as_flattened());
        f.extend_from_slice(&[8, 0]);
        f.resize(80, 0);
        pool.alloc_from(&f).unwrap()
    };
    let (none, high) = ([0x81, 0, 0, 0], [0x81, 0, 0xe0, 0]);
    let (other, service) = ([0x81, 0, 0, 5], [0x88, 0xa8, 0, 0]);
    for (tags, is, left) in [
        (&[][..], Ok(()), [8, 0]),
        (&[none], Ok(()), [8, 0]),
        (&[none, high, none], Ok(()), [8, 0]),
        (&[none, other, none], Ok(()), [0x81, 0]),
        (&[other], Ok(()), [0x81, 0]),
        (&[service], Err(Drop::VlanOther), [0x88, 0xa8]),
        (&[high, service], Err(Drop::VlanOther), [0x88, 0xa8]),
    ] {
        let mut mbuf = with(tags);
        assert_eq!(strip_priority(&mut mbuf), is, "{tags:x?}");
        assert_eq!(mbuf.data()[12..14], left, "{tags:x?}");
        assert_eq!(mbuf.data()[..12], [DST, SRC].concat());
    }
    let mut short = [DST, SRC].concat();
    short.extend_from_slice(&none);
    let mut short = pool.alloc_from(&short).unwrap();
    assert_eq!(strip_priority(&mut short), Err(Drop::Malformed));
}

/// Half a large frame is never sent, and nothing leaks.
fn out_of_buffers(pool: &Mempool) {
    let gso = Gso::new("few", 7, 0).unwrap();
    let small = Mempool::new("small", 3, 0, dpdk::DEFAULT_DATA_ROOM, None).unwrap();
    let mut o = Offload::new(small.clone(), Some(gso.share()));
    let mut done = Vec::new();
    let mbuf = frame(pool, 60_000, false, Some(1448));
    let result = o.finish(&SOFTWARE, &mut Device(false), mbuf, &mut done);
    assert_eq!((result, done.len()), (Err(Drop::NoBuffer), 0));
    assert_eq!((gso.in_use(), small.in_use(), pool.in_use()), (0, 0, 0));
    // Where only the shared buffers have run out, copies do.
    let mut o = Offload::new(pool.clone(), Some(gso.share()));
    let mbuf = frame(pool, 60_000, false, Some(1448));
    o.finish(&SOFTWARE, &mut Device(false), mbuf, &mut done)
        .unwrap();
    assert_eq!(done.len(), 60_000usize.div_ceil(1448));
}
