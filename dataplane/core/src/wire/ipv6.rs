//! IPv6 (RFC 8200): the header, and the extension headers in front of a payload.
//!
//! One treatment, the same on all nodes and ports, so that no two nodes and no
//! node and its stack ever disagree about where TCP begins (ADR 0012):
//!
//! - hop-by-hop options (first only), destination options, routing headers that
//!   have nothing left to route, and the fragment header of a whole packet
//!   (RFC 6946) are walked;
//! - what follows any other header is not TCP to us, and neither is it to a stack
//!   without an agreement about it (AH, ESP);
//! - a chain beyond [`EXT_MOST`] or [`EXT_BYTES_MOST`], a routing header of type 0
//!   (RFC 5095) or with segments left, a jumbogram (RFC 2675) and an IPv4-mapped
//!   address make the packet [`Bad`].

use super::{Bad, ETH_LEN, Ip};
use crate::key::Addr;
use crate::mutation::{Mutation, broken};
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header.
pub const HEADER_LEN: usize = 40;
/// Least MTU of a link that carries IPv6 (RFC 8200, section 5).
pub const MIN_MTU: usize = 1_280;
/// Bytes of a fragment header (RFC 8200, section 4.5).
pub const FRAGMENT_LEN: usize = 8;
/// Most extension headers in front of a payload.
pub const EXT_MOST: usize = 8;
/// Most bytes of extension headers in front of a payload.
pub const EXT_BYTES_MOST: usize = 256;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION: u8 = 60;

/// The IPv6 header (RFC 8200, section 3).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv6Hdr {
    /// Version (6), traffic class and flow label.
    pub version_class_flow: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// What follows.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Ipv6Hdr {
    /// The header of a packet that we make: no traffic class, no flow label.
    pub fn new(src: &Addr, dst: &Addr, next: u8, payload: usize, hop_limit: u8) -> Self {
        Self {
            version_class_flow: (6 << 28).into(),
            payload_len: (payload as u16).into(),
            next,
            hop_limit,
            src: src.0,
            dst: dst.0,
        }
    }
}

/// What lies behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Protocol of the payload.
    pub proto: u8,
    /// Bytes of extension headers.
    pub len: usize,
    /// The packet is a part of a larger one.
    pub fragment: bool,
}

/// Walks the extension headers at the start of `b`, of which the first is `next`.
pub(super) fn walk(mut next: u8, b: &[u8]) -> Result<Chain, Bad> {
    let mut at = 0;
    for n in 0.. {
        let known = matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION);
        if !known || broken(Mutation::ExtensionsOpaque) {
            break;
        }
        if n == EXT_MOST || (next == HOP_BY_HOP && n > 0) {
            return Err(Bad::Extensions);
        }
        let h = b.get(at..).and_then(<[u8]>::first_chunk::<8>);
        let h = h.ok_or(Bad::Malformed)?;
        let onward = h[2] == 0 || h[3] != 0;
        if next == ROUTING && onward && !broken(Mutation::RoutingWalked) {
            return Err(Bad::Routing);
        }
        at += if next == FRAGMENT {
            FRAGMENT_LEN
        } else {
            (usize::from(h[1]) + 1) * 8
        };
        if at > EXT_BYTES_MOST {
            return Err(Bad::Extensions);
        }
        if at > b.len() {
            return Err(Bad::Malformed);
        }
        // Offset or "more fragments"; the two bits between them say nothing.
        let fragment = next == FRAGMENT && u16::from_be_bytes([h[2], h[3]]) & 0xfff9 != 0;
        next = h[0];
        if fragment {
            return Ok(Chain {
                proto: next,
                len: at,
                fragment,
            });
        }
    }
    Ok(Chain {
        proto: next,
        len: at,
        fragment: false,
    })
}

/// Finds the payload of the IPv6 packet that `rest` begins with; `room` bytes of the
/// frame follow its Ethernet header, in `rest` and in pieces behind it.
#[inline]
pub(super) fn parse(rest: &[u8], room: usize) -> Result<Ip, Bad> {
    let (h, body) = Ipv6Hdr::ref_from_prefix(rest).map_err(|_| Bad::Malformed)?;
    if h.version_class_flow.get() >> 28 != 6 {
        return Err(Bad::Malformed);
    }
    let len = usize::from(h.payload_len.get());
    if len == 0 && h.next == HOP_BY_HOP {
        return Err(Bad::Jumbogram);
    }
    if HEADER_LEN + len > room {
        return Err(Bad::Malformed);
    }
    let body = &body[..len.min(body.len())];
    let (src, dst) = (Addr(h.src), Addr(h.dst));
    if src.is_v4() || dst.is_v4() {
        return Err(Bad::Mapped);
    }
    let chain = walk(h.next, body)?;
    Ok(Ip {
        src,
        dst,
        proto: chain.proto,
        fragment: chain.fragment,
        l4: ETH_LEN + HEADER_LEN + chain.len,
        end: ETH_LEN + HEADER_LEN + len,
    })
}

#[cfg(test)]
#[path = "ipv6_tests.rs"]
mod tests;
