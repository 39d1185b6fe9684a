//! Operation 11: what has a second byte. Its lower four bits name the operation, the
//! others are its own.

use super::node::link;
use super::ops::{At, World};
use super::peers::{bytes, mutate};
use crate::input::Input;
use dts_core::command::Command;
use dts_core::frame::{Checksum, Meta, Port};
use dts_core::life::SocketSet;
use dts_core::wire::options::Build;
use dts_core::wire::tcp::{ACK, FIN, PSH};
use std::net::SocketAddr;
use std::sync::Arc;

/// Payload of frames that a stack leaves to be cut: up to the longest datagram.
const LARGE: [usize; 4] = [1_461, 14_480, 40_000, 65_395];
/// What it asks for, reasonable or not, as bytes of a segment.
const SEGMENT: [u16; 4] = [1448, 536, 65_000, 1];

impl World {
    pub fn more(&mut self, at: At, u: &mut Input<'_>) {
        let b = u.next::<u8>();
        let high = b >> 4;
        match b & 15 {
            // A second handover, as a daemon would ask for it.
            0 => self.again(at, 0),
            1 => self.again(at, high),
            2 => {
                let port = self.app_port_of(at);
                self.freeze_at(at, port);
            }
            3 => {
                let (to, taken) = (u.next::<u8>(), u.next());
                self.splice_again(at, u16::from(to & 3), taken, high);
            }
            4 => self.look(at, high),
            5 => self.large(at, high, u),
            6 => {
                // What a stack without large frames leaves: the checksum alone.
                let f = self.any_host(at, u);
                self.nodes[at.node].rx_unfinished(f, None, self.now);
                self.heard(at.node);
            }
            7 => {
                // A device has judged the checksum, rightly or not.
                let f = self.any_client(at, u);
                let said = [Checksum::Good, Checksum::Bad, Checksum::Unknown];
                let meta = Meta {
                    checksum: said[usize::from(high) % 3],
                    tso: None,
                };
                let now = self.now;
                self.nodes[at.node].receive(Port::Wire, f, meta, now);
                self.heard(at.node);
            }
            8 => {
                let f = self.tagged(at, high, u);
                let port = u.pick(&Port::ALL);
                self.rx(at.node, port, f);
            }
            9 => {
                // The client's next segment, at one node and not at the others.
                let f = self.clients[at.client].say(ACK | PSH, 100);
                self.rx(at.node, Port::Wire, f);
            }
            _ => self.turn += 1,
        }
    }

    /// The port of the application that may have this connection.
    fn app_port_of(&self, at: At) -> u16 {
        if self.clients[at.client].to == 25 {
            25
        } else {
            self.settings.app_port()
        }
    }

    /// Freezes what an application serves, and hands it over with what the client
    /// sent last.
    fn again(&mut self, at: At, variant: u8) {
        let port = self.app_port_of(at);
        self.freeze_at(at, port);
        let c = &self.clients[at.client];
        let taken = c.request.wrapping_sub(c.isn.wrapping_add(1));
        self.splice_again(at, self.peer_of(at.node), taken, variant);
    }

    /// `variant` 0 is what a daemon would ask, when `taken` is right.
    fn splice_again(&mut self, at: At, to: u16, taken: u32, variant: u8) {
        let c = &self.clients[at.client];
        let taken = match variant & 3 {
            1 => taken.wrapping_add(1),
            2 => 0,
            _ => taken,
        };
        let first = c.isn.wrapping_add(1).wrapping_add(taken);
        let len = c
            .nxt
            .wrapping_sub(first)
            .wrapping_sub(u32::from(variant & 4 != 0));
        let len = if len > 70_000 { 0 } else { len as usize };
        let splice = Command::Splice {
            ticket: self.tickets,
            dest: SocketAddr::new(link(to).ip(), self.app_port_of(at)),
            request: bytes(first, len),
            taken,
            client_fin: variant & 8 != 0,
        };
        self.command(at.node, splice);
    }

    /// A look at the node's sockets finds those of some connections.
    fn look(&mut self, at: At, found: u8) {
        self.looks += 1;
        let ports = [8001, self.settings.app_port(), 25];
        let clients = self.clients.iter().enumerate();
        let sockets = clients
            .filter(|(i, _)| found & 1 << i != 0)
            .flat_map(|(_, c)| ports.map(|p| (SocketAddr::new(c.vip, p), c)))
            .map(|(local, c)| (local, SocketAddr::new(c.addr, c.port)));
        let set = Arc::new(SocketSet::new(self.looks, sockets));
        self.command(at.node, Command::Sockets { set });
    }

    /// A frame that the stack leaves to be cut into segments.
    fn large(&mut self, at: At, high: u8, u: &mut Input<'_>) {
        let c = &self.clients[at.client];
        let port = if high & 1 == 0 {
            self.app_port_of(at)
        } else {
            8001
        };
        let isn = c.stacks[usize::from(high & 1 == 0)];
        let flags = ACK | PSH | if high & 2 == 0 { 0 } else { FIN };
        let b = u.next::<u8>();
        let (seq, ack) = if b & 0x80 == 0 {
            (isn.wrapping_add(1), c.nxt)
        } else {
            (c.near(u), c.near(u))
        };
        let opts = Build {
            timestamps: (high & 4 == 0).then_some((7000, c.clock)),
            ..Build::default()
        };
        let len = LARGE[usize::from(b & 3)];
        let mut f = c.host(port, (seq, ack, flags), opts, &bytes(seq, len));
        if high & 8 != 0 {
            mutate(&mut f, u);
        }
        let tso = SEGMENT[usize::from(b >> 2 & 3)];
        self.nodes[at.node].rx_unfinished(f, Some(tso), self.now);
        self.heard(at.node);
    }

    /// A frame with a VLAN tag, or with two: what a port without a VLAN of its own
    /// leaves in.
    fn tagged(&mut self, at: At, high: u8, u: &mut Input<'_>) -> Vec<u8> {
        let mut f = if high & 1 == 0 {
            self.any_client(at, u)
        } else {
            self.any_host(at, u)
        };
        let [kind, tci] = [[0x81, 0], [0, high >> 3]];
        let at = 12.min(f.len());
        f.splice(at..at, [kind, tci].concat());
        if high & 2 != 0 {
            f.splice(at..at, [0x88, 0xa8, 0, 7]);
        }
        f
    }
}
