//! What `scenario/rules.rs` needs: rare frames, and what must come of them.

use crate::extensions;
use crate::faults::{STRANGER, checksum, packet};
use crate::node::{CLUSTER_MAC, Node, VIP6, sole_owner};
use crate::seg::{ACK, ETH, SYN, Seg};
use crate::world::{Ev, World, client_mac};
use dts_core::frame::Port;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Marks fragments that nobody but [`World::fragments`] makes.
const FRAGMENT_ID: [u8; 2] = [0xde, 0xad];
/// Bare acknowledgements of a storm's stack that may pass: half of the breaker's row,
/// and some that belong to something else.
const STORM_MOST: u64 = 25;
/// Between two of the same segment, nanoseconds.
const REPEATED: u64 = 200_000_000;
/// A splice port rests at least so long, nanoseconds.
const REST: u64 = 90_000_000;

/// What the run remembers for these checks.
#[derive(Default)]
pub(crate) struct Memory {
    /// The last segment of the client, and of an application's stack with its node.
    client: Option<Seg>,
    stack: Option<(u16, Seg)>,
    /// Bare acknowledgements that left since the storm began.
    passed: u64,
    /// Solicitations sent, and advertisements that answered.
    solicits: u64,
    adverts: u64,
    /// Splice ports: who used them last, and when.
    ports: BTreeMap<(u16, u16), (Vec<u8>, u64)>,
}

fn bare(s: &Seg) -> bool {
    s.flags == ACK && s.payload.is_empty()
}

impl Memory {
    pub(crate) fn client_said(&mut self, s: &Seg) {
        if !s.has(SYN) {
            self.client = Some(s.clone());
        }
    }

    pub(crate) fn stack_said(&mut self, id: u16, s: &Seg) {
        self.stack = Some((id, s.clone()));
    }

    pub(crate) fn left(&mut self, frame: &[u8], s: Option<&Seg>) {
        self.passed += u64::from(s.is_some_and(bare));
        let icmp6 = frame[12..14] == [0x86, 0xdd] && frame.get(ETH + 6) == Some(&58);
        self.adverts += u64::from(icmp6 && frame.get(ETH + 40) == Some(&136));
    }
}

impl World {
    /// A datagram in two fragments. The second one looks like a segment itself.
    pub(crate) fn fragments(&mut self) {
        let mut s = self.stranger(ACK, 1, 1);
        s.payload = vec![0x50; 60];
        let p = s.packet();
        let head = if s.src.is_ipv4() { 20 } else { 40 };
        let cut = head + 40;
        for (more, from, to) in [(true, head, cut), (false, cut, p.len())] {
            let mut f = [&CLUSTER_MAC[..], &client_mac(0)].concat();
            let at = (from - head) as u16;
            let len = to - from;
            let mut ip = p[..head].to_vec();
            if head == 20 {
                f.extend_from_slice(&[8, 0]);
                ip[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
                ip[4..6].copy_from_slice(&FRAGMENT_ID);
                let word = (at / 8) | if more { 0x2000 } else { 0 };
                ip[6..8].copy_from_slice(&word.to_be_bytes());
                ip[10..12].copy_from_slice(&[0, 0]);
                let c = checksum(&ip);
                ip[10..12].copy_from_slice(&c.to_be_bytes());
            } else {
                f.extend_from_slice(&[0x86, 0xdd]);
                ip[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
                ip[6] = extensions::FRAGMENT;
                ip.extend_from_slice(&[6, 0]);
                ip.extend_from_slice(&(at | u16::from(more)).to_be_bytes());
                ip.extend_from_slice(&[0, 0]);
                ip.extend_from_slice(&FRAGMENT_ID);
            }
            f.extend_from_slice(&ip);
            f.extend_from_slice(&p[from..to]);
            self.broadcast(0, f);
        }
    }

    /// SYNs of a stranger with headers that no node may walk.
    pub(crate) fn routed(&mut self) {
        let mut s = self.stranger(SYN, STRANGER, 0);
        s.src = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x2bad).into();
        s.dst = VIP6.into();
        let f = s.frame(CLUSTER_MAC, client_mac(0));
        for chain in extensions::refused() {
            self.broadcast(0, extensions::with(&f, &chain));
        }
    }

    /// Holds a frame for a host against [`Self::fragments`].
    pub(crate) fn no_fragment(&mut self, id: u16, bytes: &[u8]) {
        let four = bytes[ETH] >> 4 == 4 && bytes[ETH + 4..ETH + 6] == FRAGMENT_ID;
        let six = bytes[ETH] >> 4 == 6
            && bytes[ETH + 6] == extensions::FRAGMENT
            && bytes.get(ETH + 46..ETH + 48) == Some(&FRAGMENT_ID);
        if four || six {
            self.check.fail(
                self.now,
                "no fragment of TCP reaches a host",
                format!("node {id}"),
            );
        }
    }

    pub(crate) fn storm(&mut self, rounds: u64, gap: u64) {
        let (Some(mut c), Some((id, mut s))) =
            (self.memory.client.clone(), self.memory.stack.clone())
        else {
            return;
        };
        for x in [&mut c, &mut s] {
            x.seq = x.end();
            x.flags = ACK;
            x.payload.clear();
            x.opts.sack.clear();
        }
        // Each has heard the other.
        (c.ack, s.ack) = (self.heard_by_client(), c.seq);
        self.memory.passed = 0;
        let (c, s) = (
            c.frame(CLUSTER_MAC, client_mac(0)),
            s.frame(client_mac(0), CLUSTER_MAC),
        );
        let boot = self.node(id).boot;
        for i in 0..rounds {
            let at = self.now + i * gap;
            self.push(at, Ev::ToNode(id, Port::Wire, c.clone()));
            self.push(at + gap / 2, Ev::FromHost(id, boot, s.clone()));
        }
    }

    fn heard_by_client(&self) -> u32 {
        self.memory.client.as_ref().map_or(0, |c| c.ack)
    }

    pub(crate) fn storm_over(&mut self, rounds: u64) {
        let passed = self.memory.passed;
        let what = format!("{passed} of {rounds} acknowledgements passed");
        if rounds > 2 * STORM_MOST && passed > STORM_MOST {
            self.check
                .fail(self.now, "an acknowledgement storm is cut off", what);
        } else if rounds < STORM_MOST && passed < rounds {
            self.check
                .fail(self.now, "a few acknowledgements in turn pass", what);
        }
    }

    /// Someone with this address asks who has the IPv6 VIP.
    pub(crate) fn solicit(&mut self, src: IpAddr) {
        let target = VIP6.octets();
        let mut dst = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        dst[13..].copy_from_slice(&target[13..]);
        let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&target);
        icmp.extend_from_slice(&[1, 1]);
        icmp.extend_from_slice(&client_mac(0));
        let mut f = vec![0x33, 0x33, dst[12], dst[13], dst[14], dst[15]];
        f.extend_from_slice(&client_mac(0));
        f.extend_from_slice(&packet(src, Ipv6Addr::from(dst).into(), 58, icmp));
        self.memory.solicits += 1;
        self.broadcast(0, f);
    }

    /// At the end: one node answered each solicitation.
    pub(crate) fn solicited(&mut self) {
        let m = &self.memory;
        if m.adverts != m.solicits {
            let what = format!("{} advertisements for {}", m.adverts, m.solicits);
            self.check
                .fail(self.now, "one node answers a solicitation", what);
        }
    }

    /// A new owner asks who has a flow before it resets its client.
    pub(crate) fn moved(&mut self) {
        let Some(mut s) = self.memory.client.clone() else {
            return;
        };
        let without = |n: &&mut Node| n.up && n.states().iter().sum::<u64>() == 0;
        let Some(n) = self.nodes.iter_mut().find(without) else {
            return;
        };
        let id = n.id;
        for service in &mut n.view.services {
            service.buckets = sole_owner(id);
        }
        // A byte that was answered long ago, as a keepalive of old stacks has it.
        (s.seq, s.flags, s.payload) = (s.end().wrapping_sub(1), ACK, vec![0]);
        let f = s.frame(CLUSTER_MAC, client_mac(0));
        for n in 0..6 {
            let at = self.now + n * REPEATED;
            self.push(at, Ev::ToNode(id, Port::Wire, f.clone()));
        }
    }

    pub(crate) fn no_flow(&mut self, id: u16) {
        let n = self.node(id).states();
        if n[1] + n[3] > 0 {
            let what = format!("node {id}: {n:?}");
            self.check
                .fail(self.now, "a flow without a socket is over", what);
        }
    }

    /// A handover's message leaves a splice port: another one's was long ago.
    pub(crate) fn port_rests(&mut self, id: u16, s: &Seg) {
        let Some(name) = s.payload.get(100..116).map(<[u8]>::to_vec) else {
            return;
        };
        let (key, now) = ((id, s.sport), self.now);
        let old = self.memory.ports.insert(key, (name.clone(), now));
        if let Some((last, at)) = old
            && last != name
            && last[..12] == name[..12]
            && now < at + REST
        {
            let what = format!("node {id}, port {}", s.sport);
            self.check
                .fail(now, "a splice port rests after its use", what);
        }
    }
}
