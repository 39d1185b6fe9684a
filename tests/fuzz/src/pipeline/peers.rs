//! Clients and local stacks, as far as operations need their numbers.

use super::node::{CLUSTER_MAC, VIPS};
use crate::frames::{self, Kind};
use crate::input::Input;
use dts_core::wire::build::Tcp;
use dts_core::wire::options::{self, Build};
use dts_core::wire::tcp::{ACK, FIN, PSH, RST, SYN, Segment};
use dts_core::wire::{L3, edit, l3};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Numbers far from the wraps, next to 2^31, next to 2^32: client, intake, and the
/// destination's stack.
const ISNS: [[u32; 3]; 8] = [
    [1000, 9000, 50],
    [0x7fff_ffe8, 0x7fff_fffd, 0xffff_fffa],
    [0xffff_ffe8, 0xffff_fffd, 0x7fff_fffa],
    [u32::MAX, 0, u32::MAX],
    [0x8000_0000, u32::MAX, 0],
    [7, 0x8000_0000, 0x8000_0000],
    [0xffff_0000, 0x7fff_0000, 0],
    [0, 0, 0],
];
/// Payload lengths.
pub const LENS: [usize; 8] = [0, 1, 2, 28, 100, 400, 476, 1300];

/// A client's side of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub addr: IpAddr,
    pub vip: IpAddr,
    pub port: u16,
    /// The service port.
    pub to: u16,
    pub isn: u32,
    /// The next number to send.
    pub nxt: u32,
    /// The first number of what was sent last: a request, where it has one segment.
    pub request: u32,
    /// The next number expected.
    pub rcv: u32,
    pub clock: u32,
    /// TSval heard last.
    pub heard: u32,
    /// 1 timestamps, 2 SACK, 4 window scale.
    pub options: u8,
    /// ISNs of the stack at the intake and at the destination.
    pub stacks: [u32; 2],
}

impl Client {
    pub fn new(n: usize, u: &mut Input<'_>) -> Self {
        let b = u.next::<u8>();
        let v6 = n == 1 || n == 2;
        let [isn, s, l] = ISNS[usize::from(b & 7)];
        Self {
            addr: if v6 {
                IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x200))
            } else {
                IpAddr::V4(Ipv4Addr::new(10, 77, 0, 200))
            },
            vip: VIPS[usize::from(v6)],
            port: 40_000 + n as u16,
            to: if n == 3 { 25 } else { 80 },
            isn,
            nxt: isn,
            request: isn.wrapping_add(1),
            rcv: 0,
            clock: 100,
            heard: 0,
            options: !(b >> 3) & 7,
            stacks: [s, l],
        }
    }

    /// A number near one that somebody knows, or any.
    pub fn near(&self, u: &mut Input<'_>) -> u32 {
        let b = u.next::<u8>();
        let base = match b >> 4 & 7 {
            0 => self.nxt,
            1 => self.rcv,
            2 => self.isn,
            3 => self.stacks[0],
            4 => self.stacks[1],
            5 => self.isn.wrapping_add(1),
            6 => self.nxt.wrapping_add(0x8000_0000),
            _ => return u.next(),
        };
        let off = u32::from(b & 7);
        if b & 8 == 0 {
            base.wrapping_add(off)
        } else {
            base.wrapping_sub(off)
        }
    }

    fn opts(&self, syn: bool) -> Build {
        let bit = |n: u8| self.options & n != 0;
        Build {
            mss: syn.then_some(1460),
            sack_permitted: syn && bit(2),
            timestamps: bit(1).then_some((self.clock, if syn { 0 } else { self.heard })),
            wscale: (syn && bit(4)).then_some(7),
            splice: None,
        }
    }

    /// A segment of this client.
    pub fn segment(&self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        Tcp {
            eth_dst: CLUSTER_MAC,
            eth_src: [2, 0, 0, 0, 0, 200],
            src: self.addr.into(),
            dst: self.vip.into(),
            sport: self.port,
            dport: self.to,
            seq,
            ack,
            flags,
            window: 502,
            opts: self.opts(flags & SYN != 0),
            payload,
        }
        .frame()
    }

    /// The next segment in order.
    pub fn say(&mut self, flags: u8, len: usize) -> Vec<u8> {
        let f = self.segment(self.nxt, self.rcv, flags, &bytes(self.nxt, len));
        let n = len as u32 + u32::from(flags & (FIN | SYN) != 0);
        if len > 0 {
            self.request = self.nxt;
        }
        self.nxt = self.nxt.wrapping_add(n);
        f
    }

    /// A frame that left on the wire, if it is for this client.
    pub fn hear(&mut self, frame: &[u8]) {
        if let Kind::Tcp(t) = frames::read(frame)
            && (t.dst, t.dport, t.src) == (self.addr, self.port, self.vip)
            && !t.rst
        {
            let end = t.seq_end();
            if t.syn || (end.wrapping_sub(self.rcv) as i32) > 0 {
                self.rcv = end;
            }
            self.heard = t.ts.unwrap_or(self.heard);
        }
    }

    /// A segment of a local socket of this connection.
    pub fn host(&self, port: u16, head: (u32, u32, u8), opts: Build, payload: &[u8]) -> Vec<u8> {
        Tcp {
            eth_dst: [2, 0, 0, 0, 0, 1],
            eth_src: CLUSTER_MAC,
            src: self.vip.into(),
            dst: self.addr.into(),
            sport: port,
            dport: self.port,
            seq: head.0,
            ack: head.1,
            flags: head.2,
            window: 500,
            opts,
            payload,
        }
        .frame()
    }
}

/// `len` bytes that follow from their number.
pub fn bytes(seq: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| seq.wrapping_add(i) as u8).collect()
}

/// How a stack answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Fair,
    /// Acknowledges the SYN and not its payload.
    SynOnly,
    /// RST.
    Nobody,
    /// A plain ACK: an old socket.
    Old,
    /// A SYN-ACK without options.
    Bare,
    /// An answer with data.
    Data,
    /// An answer and FIN.
    Fin,
    /// Acknowledges half.
    Half,
}

pub const MOODS: [Mood; 8] = [
    Mood::Fair,
    Mood::SynOnly,
    Mood::Nobody,
    Mood::Old,
    Mood::Bare,
    Mood::Data,
    Mood::Fin,
    Mood::Half,
];

/// A stack's answer to `frame`, if it answers; `isn` is its own first number.
pub fn answer(frame: &[u8], isn: u32, mood: Mood) -> Option<Vec<u8>> {
    let Ok(L3::Ip(ip)) = l3(frame) else {
        return None;
    };
    let s = Segment::parse(frame, &ip).ok()?;
    let syn = s.has(SYN);
    let whole = match mood {
        Mood::SynOnly if syn => 1,
        Mood::Half => s.seq_len() / 2,
        _ => s.seq_len(),
    };
    let ack = s.seq.wrapping_add(whole);
    let next = if s.has(ACK) { s.ack } else { isn };
    let opts = Build {
        timestamps: s.opts.timestamps.map(|(val, _, _)| (7000, val)),
        ..Build::default()
    };
    let syn_opts = Build {
        mss: Some(1460),
        sack_permitted: s.opts.sack_permitted,
        wscale: s.opts.wscale.map(|_| 7),
        ..opts
    };
    let (head, opts, len) = match mood {
        _ if s.has(RST) => return None,
        Mood::Nobody => ((0, ack, RST | ACK), Build::default(), 0),
        Mood::Old => ((isn.wrapping_add(500), s.seq.wrapping_sub(9), ACK), opts, 0),
        Mood::Bare if syn => ((isn, ack, SYN | ACK), Build::default(), 0),
        _ if syn => ((isn, ack, SYN | ACK), syn_opts, 0),
        Mood::Data => ((next, ack, ACK | PSH), opts, 200),
        Mood::Fin => ((next, ack, ACK | FIN), opts, 3),
        Mood::Fair | Mood::SynOnly | Mood::Bare | Mood::Half => ((next, ack, ACK), opts, 0),
    };
    let answer = Tcp {
        eth_dst: [2, 0, 0, 0, 0, 1],
        eth_src: CLUSTER_MAC,
        src: ip.dst,
        dst: ip.src,
        sport: s.dport,
        dport: s.sport,
        seq: head.0,
        ack: head.1,
        flags: head.2,
        window: 65_160,
        opts,
        payload: &bytes(head.0, len),
    };
    Some(answer.frame())
}

/// Changes a frame as the input says; in most cases its checksums are made right
/// again.
pub fn mutate(frame: &mut Vec<u8>, u: &mut Input<'_>) {
    let b = u.next::<u8>();
    for _ in 0..b & 3 {
        let (at, x) = (usize::from(u.next::<u8>()), u.next::<u8>());
        let at = at % frame.len().max(1);
        if let Some(byte) = frame.get_mut(at) {
            *byte ^= x;
        }
    }
    if b & 4 != 0 {
        let keep = usize::from(u.next::<u8>());
        frame.truncate(keep.min(frame.len()));
    }
    if b & 8 != 0 {
        return;
    }
    if let Ok(L3::Ip(ip)) = l3(frame)
        && ip.l4 + 20 <= ip.end
    {
        edit::set_ip_len(frame, ip.end - 14);
        edit::write_tcp_checksum(frame, ip.l4, ip.end);
    }
}

/// `frame`, whose TCP header has no options, with these raw ones.
pub fn with_options(frame: &[u8], raw: &[u8]) -> Vec<u8> {
    let Ok(L3::Ip(ip)) = l3(frame) else {
        return frame.to_vec();
    };
    let Ok(s) = Segment::parse(frame, &ip) else {
        return frame.to_vec();
    };
    let mut o = raw[..raw.len().min(40)].to_vec();
    o.resize(o.len().next_multiple_of(4), options::kind::NOP);
    let mut f = [&frame[..s.opts_at], &o, &frame[s.data..s.end]].concat();
    f[s.l4 + 12] = (((20 + o.len()) / 4) << 4) as u8;
    let end = f.len();
    edit::set_ip_len(&mut f, end - 14);
    edit::write_tcp_checksum(&mut f, s.l4, end);
    f
}
