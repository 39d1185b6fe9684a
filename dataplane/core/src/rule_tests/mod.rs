//! The rules of PROTOCOL, sections 3 to 6, one by one, on two nodes whose stacks
//! are played by hand.

use super::testkit::*;
use crate::command::{Command, Event, Fail};
use crate::drops::Drop;
use crate::fcb::State;
use crate::frame::Port;
use crate::view::View;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, URG};
use crate::wire::{L3, edit, l3, tcp::Segment};
use dts_proto::block::Reason;
use std::net::SocketAddr;

mod again;
mod answers;
mod corners;
mod edges;
mod fails;
mod found;
mod gone;
mod held;
mod keys;
mod layer2;
mod leaks;
mod noise;
mod on_wire;
mod options;
mod orphans;
mod out_of_place;
mod outside;
mod repeat;
mod seats;
mod steering;
mod storm;
mod tombstones;
mod translation;
mod unavailable;
mod windows;

/// `frame`, which has no options, with these raw ones; NOPs fill them up.
fn with_options(frame: &[u8], opts: &[u8]) -> Vec<u8> {
    let Ok(L3::Ip(ip)) = l3(frame) else {
        panic!("not IP")
    };
    let s = Segment::parse(frame, &ip).expect("TCP");
    assert_eq!(s.data, s.opts_at, "no options yet");
    let mut o = opts.to_vec();
    o.resize(opts.len().next_multiple_of(4), 1);
    let mut f = [&frame[..s.opts_at], &o, &frame[s.data..s.end]].concat();
    f[s.l4 + 12] = (((20 + o.len()) / 4) << 4) as u8;
    let end = f.len();
    edit::set_ip_len(&mut f, end - 14);
    edit::write_tcp_checksum(&mut f, s.l4, end);
    f
}

/// A SACK option of these blocks behind `pad` NOPs.
fn sack(pad: usize, blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut o = vec![1; pad];
    o.extend([5, (2 + blocks.len() * 8) as u8]);
    for (left, right) in blocks {
        o.extend(left.to_be_bytes());
        o.extend(right.to_be_bytes());
    }
    o
}

/// The SACK blocks of a frame; its checksum is verified too.
fn sack_of(frame: &[u8]) -> Option<Vec<(u32, u32)>> {
    let s = seen(frame).seg;
    let (at, n) = s.opts.sack?;
    let word = |i: usize| {
        let at = s.opts_at + at + i * 4;
        u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
    };
    Some((0..n).map(|i| (word(2 * i), word(2 * i + 1))).collect())
}
