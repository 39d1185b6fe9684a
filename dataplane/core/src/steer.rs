//! Which worker a frame belongs to: a pure function of the client's address and
//! port, whatever the tuple looks like on wire, link or host.

use crate::frame::{Frame, Port};
use crate::key::{Addr, FlowKey, HashKey};
use crate::view::View;
use crate::wire::icmp::Quote;
use crate::wire::{self, Ip, L3, PROTO_TCP, tcp};
use dts_proto::block;

/// Values of [`Steer::client`]: as many as the redirection tables of NICs have entries,
/// or a part of those.
pub const SPREAD: u16 = 128;
const BITS: usize = SPREAD.ilog2() as usize;
/// Bytes of a Toeplitz key for TCP over IPv6, which NICs take.
pub const RSS_KEY: usize = 40;

/// The hash that spreads clients over workers: what a NIC makes of a frame from the
/// wire with [`Steer::rss_key`], as far as its lowest bits go.
///
/// A NIC hashes source and destination alike (Toeplitz), and only the client may count:
/// on the other ports the rest of the tuple is another. Toeplitz is linear, and bit `i`
/// of the tuple adds the 32 bits of the key from bit `i` on. The key is 0 where those of
/// destination address and port have their lowest bits, so that they add nothing there;
/// the rest of it is secret (ADR 0021).
#[derive(Clone)]
pub struct Steer {
    key: [u8; RSS_KEY],
    /// Per bit of the hash: which bits of address and port count.
    v4: [u64; BITS],
    v6: [[u64; 3]; BITS],
}

impl std::fmt::Debug for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Steer(..)")
    }
}

/// First bit and number of bits of the fields of a tuple as NICs hash it: source
/// address, destination address, source port, destination port.
const V4: [(usize, usize); 4] = [(0, 32), (32, 32), (64, 16), (80, 16)];
const V6: [(usize, usize); 4] = [(0, 128), (128, 128), (256, 16), (272, 16)];

/// The bit of the key that bit `i` of a tuple adds to bit `j` of the hash, from its
/// lowest on.
const fn key_bit(i: usize, j: usize) -> usize {
    i + 31 - j
}

/// 1 where an odd number of bits is set.
#[inline]
fn odd(x: u64) -> u16 {
    x.count_ones() as u16 & 1
}

impl Steer {
    /// From 16 secret bytes.
    #[must_use]
    pub fn new(seed: [u8; 16]) -> Self {
        let (mut key, random) = ([0; RSS_KEY], HashKey::new(seed));
        for (n, bytes) in key.chunks_mut(8).enumerate() {
            let hash = random.addr(&Addr([n as u8; 16]));
            bytes.copy_from_slice(&hash.to_le_bytes());
        }
        for [source, to, port, to_port] in [V4, V6] {
            for (first, bits) in [to, to_port] {
                let (from, end) = (key_bit(first, BITS - 1), key_bit(first + bits, 0));
                (from..end).for_each(|bit| key[bit / 8] &= !(0x80 >> (bit % 8)));
            }
            // The lowest bit of address and of port always counts in the highest bit of
            // the hash, which tells two workers apart.
            for (first, bits) in [source, port] {
                let bit = key_bit(first + bits - 1, BITS - 1);
                key[bit / 8] |= 0x80 >> (bit % 8);
            }
        }
        // `bits` bits of the key from bit `at` on, as a number.
        let part = |at: usize, bits: usize| {
            let bit = |i: usize| u64::from(key[i / 8] >> (7 - i % 8) & 1);
            (at..at + bits).fold(0, |n, i| n << 1 | bit(i))
        };
        let v4 =
            std::array::from_fn(|j| part(key_bit(0, j), 32) << 16 | part(key_bit(V4[2].0, j), 16));
        let v6 = std::array::from_fn(|j| {
            [
                part(key_bit(0, j), 64),
                part(key_bit(64, j), 64),
                part(key_bit(V6[2].0, j), 16),
            ]
        });
        Self { key, v4, v6 }
    }

    /// The key with which a NIC hashes a frame from the wire to a number whose
    /// remainder by [`SPREAD`] is [`Self::client`].
    #[must_use]
    pub fn rss_key(&self) -> &[u8; RSS_KEY] {
        &self.key
    }

    /// As [`Self::client`], of an IPv4 address as a number.
    #[inline]
    pub(crate) fn client_v4(&self, a: u32, port: u16) -> u16 {
        let x = u64::from(a) << 16 | u64::from(port);
        (0..BITS).fold(0, |h, j| h | odd(x & self.v4[j]) << j)
    }

    /// Of a client's address and port; below [`SPREAD`].
    #[inline]
    #[must_use]
    pub fn client(&self, a: &Addr, port: u16) -> u16 {
        if a.is_v4() {
            return self.client_v4(u32::from_be_bytes(a.octets_v4()), port);
        }
        let x = u128::from_be_bytes(a.0);
        let (high, low, port) = ((x >> 64) as u64, x as u64, u64::from(port));
        (0..BITS).fold(0, |h, j| {
            let [m, n, p] = self.v6[j];
            h | odd(high & m ^ low & n ^ port & p) << j
        })
    }

    /// The worker, or queue, of a value of [`Self::client`].
    #[inline]
    #[must_use]
    pub fn part(value: u16, workers: usize) -> usize {
        usize::from(value) * workers / usize::from(SPREAD)
    }
}

/// The worker of a client, of `workers` in all.
#[inline]
pub fn worker_of_client(view: &View, client: &Addr, port: u16, workers: usize) -> usize {
    Steer::part(view.steer.client(client, port), workers)
}

/// The worker that must process `frame`. What belongs to no flow stays on
/// worker 0.
#[inline]
pub fn worker_of_frame<F: Frame>(view: &View, port: Port, frame: &F, workers: usize) -> usize {
    if workers == 1 {
        return 0;
    }
    let Ok(L3::Ip(ip)) = wire::l3_of(frame) else {
        return 0;
    };
    if ip.proto != PROTO_TCP || ip.fragment {
        // An error about one of our segments goes where its connection is.
        return match Quote::parse(frame.head(), &ip) {
            Some(q) if port == Port::Wire => worker_of_flow(view, &q.flow, workers),
            _ => 0,
        };
    }
    let Some((sport, dport)) = tcp::ports(frame.head(), &ip) else {
        return 0;
    };
    match port {
        Port::Wire => worker_of_client(view, &ip.src, sport, workers),
        Port::WireHost => worker_of_client(view, &ip.dst, dport, workers),
        Port::Link => worker_of_link(view, frame, &ip, sport, dport, workers),
        Port::LinkHost => 0,
    }
}

fn worker_of_link<F: Frame>(
    view: &View,
    frame: &F,
    ip: &Ip,
    sport: u16,
    dport: u16,
    workers: usize,
) -> usize {
    if view.is_splice_port(dport) {
        // The source's worker chose the port so that its answers come back to it.
        return usize::from(dport - view.params.splice_ports.0) % workers;
    }
    let Ok(s) = tcp::Segment::parse(frame.head(), ip) else {
        return 0;
    };
    // The fixed part of a block, which may lie in other pieces than the headers.
    let mut block = [0; block::FIXED_LEN];
    let block = &mut block[..s.len().min(block::FIXED_LEN)];
    let client = match frame.head().get(s.data..s.data + block.len()) {
        Some(bytes) => block::peek_client(bytes),
        None if frame.copy_out(s.data, block) => block::peek_client(block),
        None => None,
    };
    match client {
        Some(c) => worker_of_client(view, &c.ip().into(), c.port(), workers),
        None => worker_of_link_tuple(view, &ip.src, sport, workers),
    }
}

/// The worker that knows where the flow of a bare splice connection lives.
pub fn worker_of_link_tuple(view: &View, source: &Addr, sport: u16, workers: usize) -> usize {
    worker_of_client(view, source, sport, workers)
}

/// The worker of a flow.
pub fn worker_of_flow(view: &View, k: &FlowKey, workers: usize) -> usize {
    worker_of_client(view, &k.client, k.client_port, workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a NIC does: for each bit of the tuple that is 1, the 32 bits of the key from
    /// there on.
    fn toeplitz(key: &[u8], tuple: &[u8]) -> u32 {
        let mut hash = 0;
        for i in (0..tuple.len() * 8).filter(|i| tuple[i / 8] >> (7 - i % 8) & 1 == 1) {
            let window = (0..32).fold(0, |n, b| {
                n << 1 | u32::from(key[(i + b) / 8] >> (7 - (i + b) % 8) & 1)
            });
            hash ^= window;
        }
        hash
    }

    fn tuple(src: &[u8], dst: &[u8], sport: u16, dport: u16) -> Vec<u8> {
        [src, dst, &sport.to_be_bytes(), &dport.to_be_bytes()].concat()
    }

    /// Microsoft, "Verifying the RSS hash calculation".
    #[test]
    fn the_reference_is_right() {
        const KEY: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let t = tuple(&[66, 9, 149, 187], &[161, 142, 100, 80], 2794, 1766);
        assert_eq!(toeplitz(&KEY, &t), 0x51cc_c178);
    }

    /// Clients of both families, some close to each other.
    fn clients() -> impl Iterator<Item = (Addr, u16)> {
        (0..4_000u32).map(|n| {
            let near = n % 50;
            let port = (1024 + n * 7) as u16;
            let far = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
            match n % 4 {
                0 => (Addr::v4([192, 0, 2, near as u8]), port),
                1 => (Addr::v4(far), port),
                2 => (
                    Addr([
                        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, near as u8,
                    ]),
                    port,
                ),
                _ => {
                    let mut a = [0x20; 16];
                    a[4..8].copy_from_slice(&far);
                    a[12..].copy_from_slice(&far);
                    (Addr(a), port)
                }
            }
        })
    }

    #[test]
    fn a_nic_with_the_key_agrees_whatever_the_destination() {
        for seed in [[0; 16], [9; 16], *b"0123456789abcdef"] {
            let steer = Steer::new(seed);
            for (a, port) in clients() {
                let own = steer.client(&a, port);
                assert!(own < SPREAD);
                for (n, dport) in [(1u8, 80), (200, 443), (255, 65_535)] {
                    let t = match a.is_v4() {
                        true => tuple(&a.octets_v4(), &[n; 4], port, dport),
                        false => tuple(&a.0, &[n; 16], port, dport),
                    };
                    let nic = toeplitz(steer.rss_key(), &t) % u32::from(SPREAD);
                    assert_eq!(nic, u32::from(own), "{a:?} {port} to {n} {dport}");
                }
            }
        }
    }

    #[test]
    fn clients_are_spread_evenly() {
        let count = |clients: &mut dyn Iterator<Item = (Addr, u16)>, what: &str| {
            let clients: Vec<_> = clients.collect();
            for seed in 0..50 {
                let steer = Steer::new([seed; 16]);
                for workers in [2, 3, 4, 8] {
                    let mut of = vec![0; workers];
                    for (a, port) in &clients {
                        of[Steer::part(steer.client(a, *port), workers)] += 1;
                    }
                    let fair = clients.len() / workers;
                    assert!(
                        of.iter().all(|&n| n > fair / 3 && n < fair * 2),
                        "{what}, seed {seed}: {of:?}"
                    );
                }
            }
        };
        count(&mut clients(), "mixed");
        let one = Addr::v4([198, 51, 100, 7]);
        count(&mut (32_768..61_000).map(|p| (one, p)), "ports");
        count(
            &mut (0..=65_535u16).map(|n| (Addr::v4([10, 0, (n >> 8) as u8, n as u8]), 5_000)),
            "addresses",
        );
    }
}
