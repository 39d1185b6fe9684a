//! The life of a flow follows its socket (rule 20).
//!
//! The control thread looks at the kernel's sockets now and then and sends each
//! worker what it saw. The slow walk over all slots asks it once for every flow. A
//! flow without a socket at two looks, and without a segment since the first, is over:
//! its stack has forgotten it without a word. Two looks, because one may miss a socket
//! that is just changing its state, and because a worker hears of a look some time after
//! it was taken.

use crate::fcb::State;
use crate::frame::Output;
use crate::key::{Addr, FlowKey};
use crate::mutation::{Mutation, broken};
use crate::shard::Shard;
use crate::time::Instant;
use crate::view::View;
use std::collections::HashSet;
use std::net::SocketAddr;

/// Every TCP socket of this node on a VIP, as one look found them.
#[derive(Clone, Debug, Default)]
pub struct SocketSet {
    number: u64,
    // The standard library's hash has a key of its own.
    pairs: HashSet<FlowKey>,
}

impl SocketSet {
    /// The look number `number`, above 0 and larger than that of any earlier one:
    /// sockets by local and remote address, in any state but LISTEN.
    pub fn new(number: u64, sockets: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> Self {
        let pair = |(local, remote)| FlowKey::new(remote, local);
        Self {
            number,
            pairs: sockets.into_iter().map(pair).collect(),
        }
    }

    /// Sockets in it.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn has(&self, client: Addr, client_port: u16, vip: Addr, local_port: u16) -> bool {
        self.pairs.contains(&FlowKey {
            client,
            vip,
            client_port,
            port: local_port,
        })
    }
}

impl Shard {
    /// Asks the newest look for a flow, once, and ends the flow if this is the
    /// second look that does not know it.
    pub(crate) fn look_for_socket<O: Output>(
        &mut self,
        v: &View,
        slot: u32,
        now: Instant,
        out: &mut O,
    ) {
        let (Some(sockets), f) = (&self.sockets, &mut self.slots[slot as usize]) else {
            return;
        };
        // A look that comes as many looks later is not mistaken for this one: each flow is
        // asked for at every look.
        let looked = (sockets.number % 255) as u8 + 1;
        let talks = matches!(f.state, State::Intake | State::Served);
        if !talks || f.expires.is_some() || self.past[slot as usize].looked == looked {
            return;
        }
        self.past[slot as usize].looked = looked;
        if sockets.has(f.client, f.client_port, f.key(v).vip, f.local_port) {
            if f.missed.is_some() {
                f.missed = None;
                f.tidy();
            }
            return;
        }
        match f.missed {
            Some(first) if f.last_seen.is_before(first) => {}
            _ => {
                f.missed = Some(now.into());
                return;
            }
        }
        if broken(Mutation::SocketGoneStays) {
            return;
        }
        self.counters.sockets_gone += 1;
        // The stack would answer RST to whatever comes now. It is not asked: its RST
        // would be in numbers that nobody translates once the entry is gone.
        self.tell_end(v, slot, out);
        let f = &mut self.slots[slot as usize];
        f.reset = true;
        f.expires = Some(now + v.params.tombstone);
        self.entomb(v, slot);
    }
}
