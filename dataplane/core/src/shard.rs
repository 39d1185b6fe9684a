//! What one worker runs: its flows, its buffers, its counters.

use crate::ahead::Ahead;
use crate::command::{Command, Event, Fail, FlowInfo};
use crate::drops::{Drop, Drops};
use crate::fcb::{Fcb, State};
use crate::frame::{Frame, Output, Port};
use crate::handover::answers::Answers;
use crate::handover::paper::{Aliases, Heard};
use crate::handover::ports::SplicePorts;
use crate::handover::source::Request;
use crate::hello::Hellos;
use crate::histogram::Histogram;
use crate::hold;
use crate::key::{FlowKey, HashKey};
use crate::layer2::Layer2;
use crate::life::SocketSet;
use crate::orphans::Orphans;
use crate::past::{Origins, Past};
use crate::table::Table;
use crate::tick::Due;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire;
use dts_proto::block::ReplayWindow;
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

/// Sizes of a worker's tables.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// This worker's number, from 0.
    pub worker: usize,
    /// Workers of this node.
    pub workers: usize,
    /// FCBs.
    pub flows: usize,
    /// Bytes of buffers for held frames.
    pub hold: usize,
}

/// Events worth counting that are no drops.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections that were opened at this intake.
    pub opened: u64,
    /// Handovers that this worker began as source.
    pub asked: u64,
    /// Destination: accepted after a Fast Open replay.
    pub replay_fast_open: u64,
    /// Destination: accepted after a handshake replay.
    pub replay_handshake: u64,
    /// Destination: accepted from a source that speaks only the paper's form.
    pub replay_paper: u64,
    /// Destination: refused.
    pub refused: u64,
    /// Clients that were reset because nobody knows the outcome.
    pub unknown_resets: u64,
    /// Clients that were reset because the node that had their flow is gone.
    pub orphan_resets: u64,
    /// Clients that were refused because nobody owns their service.
    pub unavailable_resets: u64,
    /// Handovers that were repeated because their destination died.
    pub repeats: u64,
    /// Handovers that could not have been, or were not: no room for the request or not all of
    /// it, nobody who takes it, too late.
    pub repeats_given_up: u64,
    /// Claims that a VIP is elsewhere than at the cluster's address.
    pub vip_conflicts: u64,
    /// Frames on the wire that came from the cluster's address, from which none may come.
    pub cluster_mac_sources: u64,
    /// Flows that ended because the stack no longer had their socket.
    pub sockets_gone: u64,
    /// Link messages that were taken: authentic, new, and for this node.
    pub link_messages: u64,
    /// Segments of large requests that were sent behind a splice, repetitions too.
    pub data_segments: u64,
    /// Times that a source sent again because no answer came in time.
    pub link_repeats: u64,
}

/// One worker's share of the data plane.
pub struct Shard {
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) hash_key: HashKey,
    /// What was seen of the frame whose turn it is.
    pub(crate) seen: Ahead,
    pub(crate) table: Table,
    pub(crate) slots: Vec<Fcb>,
    /// What is kept of each slot beside its FCB.
    pub(crate) past: Vec<Past>,
    pub(crate) origins: Origins,
    pub(crate) store: hold::Store,
    /// Slots by state, in the order of the states.
    counts: [usize; State::ALL.len() + 1],
    /// Tombstones, the oldest first; those that are gone meanwhile are passed over.
    pub(crate) tombstones: VecDeque<(u32, u32)>,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    pub(crate) tickets: HashMap<u64, u32>,
    pub(crate) events: Vec<Event>,
    /// Link messages of this node to itself.
    pub(crate) loopback: VecDeque<Vec<u8>>,
    /// Bytes of requests that are kept to be handed over again.
    pub(crate) kept_bytes: usize,
    pub(crate) ports: SplicePorts,
    pub(crate) windows: HashMap<(u16, u64, u16), ReplayWindow>,
    pub(crate) answers: Answers,
    pub(crate) aliases: Aliases,
    pub(crate) heard: Heard,
    pub(crate) orphans: Orphans,
    pub(crate) layer2: Layer2,
    pub(crate) hellos: Hellos,
    /// What members there were at the last tick ([`View::members_digest`]).
    pub(crate) members: Option<u64>,
    pub(crate) message_counter: u64,
    pub(crate) handover_number: u32,
    pub(crate) fragment_id: u32,
    /// When the slow walk is to look at each slot; [`Due::NEVER`] for one that is free.
    pub(crate) due: Vec<Due>,
    /// Slots that the walk is yet to look at whatever they are due.
    pub(crate) sweep_all: usize,
    /// The lives of half-open and idle flows by which `due` was reckoned.
    pub(crate) sweep_lives: (Span, Span),
    pub(crate) sweep_at: usize,
    pub(crate) last_sweep: Instant,
    /// The newest look at the kernel's sockets.
    pub(crate) sockets: Option<Arc<SocketSet>>,
    /// Why frames were dropped.
    pub drops: Drops,
    /// What else is counted.
    pub counters: Counters,
    /// Destination: from the splice to the cut over.
    pub replays: Histogram,
}

impl Shard {
    /// An empty shard; `hash_key` is random per boot.
    pub fn new(sizes: Sizes, hash_key: HashKey, view: &View) -> Self {
        let table = Table::new(sizes.flows);
        let n = table.slots();
        let mut slots = hostmem::vec(n);
        slots.resize_with(n, || Fcb::FREE);
        let mut past = hostmem::vec(n);
        past.resize(n, Past::NEW);
        let mut due = hostmem::vec(n);
        due.resize(n, Due::NEVER);
        Self {
            worker: sizes.worker,
            workers: sizes.workers,
            hash_key,
            seen: Ahead::default(),
            table,
            slots,
            past,
            origins: Origins::default(),
            store: hold::Store::new(sizes.hold, hold_slot(view.params.wire_mtu)),
            counts: std::array::from_fn(|i| if i == 0 { n } else { 0 }),
            tombstones: VecDeque::new(),
            timers: BinaryHeap::new(),
            tickets: HashMap::new(),
            events: Vec::new(),
            loopback: VecDeque::new(),
            kept_bytes: 0,
            ports: SplicePorts::new(view.params.splice_ports, sizes.worker, sizes.workers),
            windows: HashMap::new(),
            answers: Answers::default(),
            aliases: Aliases::default(),
            heard: Heard::default(),
            orphans: Orphans::default(),
            layer2: Layer2::default(),
            hellos: Hellos::default(),
            members: None,
            message_counter: 0,
            handover_number: 0,
            fragment_id: 0,
            due,
            sweep_all: 0,
            sweep_lives: Default::default(),
            sweep_at: 0,
            last_sweep: Instant(0),
            sockets: None,
            drops: Drops::default(),
            counters: Counters::default(),
            replays: Histogram::default(),
        }
    }

    /// Processes a frame that came in by `port` and belongs to this worker.
    pub fn ingress<O: Output>(
        &mut self,
        v: &View,
        port: Port,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        match port {
            Port::Wire => self.wire_in(v, frame, now, out),
            Port::WireHost => self.wire_host_in(v, frame, now, out),
            Port::Link => self.link_in(v, frame, now, out),
            Port::LinkHost => self.link_host_in(v, frame, out),
        }
        // What was seen is of this frame alone.
        self.seen = Ahead::default();
        self.drain_loopback(v, now, out);
    }

    /// Does what the control thread asks; answers come by [`Self::take_events`].
    pub fn command<O: Output>(&mut self, v: &View, c: Command, now: Instant, out: &mut O) {
        match c {
            Command::Freeze {
                ticket,
                client,
                local,
            } => self.freeze(v, ticket, client, local, now),
            Command::Splice {
                ticket,
                dest,
                request,
                taken,
                client_fin,
            } => {
                let request = Request {
                    bytes: request,
                    taken,
                    client_fin,
                };
                self.splice(v, ticket, dest, request, now, out);
            }
            Command::Unfreeze { ticket } => {
                let slot = self.tickets.get(&ticket).copied();
                if let Some(slot) = slot.filter(|&s| self.is_frozen(s)) {
                    self.tickets.remove(&ticket);
                    self.unfreeze(v, slot, now, out);
                }
            }
            Command::Sockets { set } => {
                self.sockets = Some(set);
                self.sweep_all = self.slots.len();
            }
            Command::Flows { ticket, limit } => {
                let flows = self.list(v, now, limit);
                self.events.push(Event::Flows { ticket, flows });
            }
            Command::Find { ticket, key } => {
                let found = self.look_up(v, &key, now);
                self.events.push(Event::Found { ticket, found });
            }
        }
        self.drain_loopback(v, now, out);
    }

    /// The reports since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    /// FCBs in use, by state in the order of [`State::ALL`].
    pub fn count_states(&self) -> [u64; 5] {
        State::ALL.map(|s| self.count(s) as u64)
    }

    /// Slots in `state`.
    pub(crate) fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// Buffers for held frames: in use and in all.
    pub fn hold_use(&self) -> (usize, usize) {
        (self.store.used(), self.store.capacity())
    }

    /// Bytes of requests that are kept to be handed over again.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// FCBs in use.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// FCBs that there is room for.
    pub fn flows_most(&self) -> usize {
        self.slots.len()
    }

    fn list(&self, v: &View, now: Instant, limit: usize) -> Vec<FlowInfo> {
        let used = self.slots.iter().zip(0..);
        used.filter(|(f, _)| f.state != State::Free)
            .take(limit)
            .map(|(f, slot)| FlowInfo {
                client: f.key(v).client(),
                vip: f.key(v).vip(),
                state: f.state.name(),
                peer: self.peer_of(slot),
                delta: f.delta,
                idle: f.last_seen.age(now),
            })
            .collect()
    }

    pub(crate) fn drain_loopback<O: Output>(&mut self, v: &View, now: Instant, out: &mut O) {
        while let Some(bytes) = self.loopback.pop_front() {
            self.link_message(v, &bytes, now, out);
        }
    }

    // --- slots ---

    #[inline]
    pub(crate) fn find(&self, v: &View, k: &FlowKey) -> Option<u32> {
        let service = v.service(&k.vip, k.port)?;
        self.find_in(service, k)
    }

    /// The slot of a key of the service with this index.
    #[inline]
    pub(crate) fn find_in(&self, service: usize, k: &FlowKey) -> Option<u32> {
        self.table.find(self.hash_of(k), |s| {
            self.slots[s as usize].is(&k.client, k.client_port, service)
        })
    }

    /// A fresh FCB for `k`, which has none; `None` when the table is full.
    pub(crate) fn create(
        &mut self,
        v: &View,
        k: FlowKey,
        service: usize,
        now: Instant,
    ) -> Option<u32> {
        let hash = self.hash_of(&k);
        if self.table.is_full() {
            self.evict_tombstone(v);
        }
        let slot = self.table.insert(hash)?;
        let past = &mut self.past[slot as usize];
        *past = past.next();
        past.born = now.into();
        let f = &mut self.slots[slot as usize];
        *f = Fcb::FREE;
        (f.client, f.client_port) = (k.client, k.client_port);
        f.service = service as u16;
        (f.last_seen, f.acked_at) = (now.into(), now.into());
        Some(slot)
    }

    pub(crate) fn set_state(&mut self, slot: u32, state: State) {
        let f = &mut self.slots[slot as usize];
        self.counts[f.state as usize] -= 1;
        self.counts[state as usize] += 1;
        f.state = state;
        self.due[slot as usize] = if state == State::Free {
            Due::NEVER
        } else {
            Due::NOW
        };
    }

    /// Gives a slot and all that it holds back.
    pub(crate) fn remove(&mut self, v: &View, slot: u32) {
        self.set_state(slot, State::Free);
        let f = &mut self.slots[slot as usize];
        let hash = self.hash_key.slot(&f.key(v));
        let removed = self.table.remove(hash, slot);
        debug_assert!(removed, "no entry of slot {slot}");
        if !f.is_bare() {
            self.store.clear(&mut f.copies);
            self.store.clear(&mut f.held);
            self.drop_copy(slot);
            self.forget_duplicates(slot);
        }
        let f = &mut self.slots[slot as usize];
        let (source, dest) = (f.source.take(), f.dest.take());
        *f = Fcb::FREE;
        if let Some(s) = source {
            if let Some(d) = &s.was {
                self.aliases.forget(d);
            }
            self.close_source(&s);
        }
        if let Some(d) = dest {
            self.aliases.forget(&d);
        }
        let past = &mut self.past[slot as usize];
        *past = past.next();
    }

    /// Turns a slot into a tombstone; the oldest one goes when there are too many.
    pub(crate) fn entomb(&mut self, v: &View, slot: u32) {
        self.set_state(slot, State::Tombstone);
        let f = &mut self.slots[slot as usize];
        if !f.is_bare() {
            self.store.clear(&mut f.copies);
            self.store.clear(&mut f.held);
        }
        let generation = self.past[slot as usize].generation;
        self.tombstones.push_back((slot, generation));
        if self.tombstones.len() > 2 * v.params.tombstones_max + 64 {
            // Most of these are gone already.
            let (slots, past) = (&self.slots, &self.past);
            self.tombstones.retain(|&(slot, generation)| {
                let slot = slot as usize;
                past[slot].generation == generation && slots[slot].state == State::Tombstone
            });
        }
        while self.count(State::Tombstone) > v.params.tombstones_max {
            self.evict_tombstone(v);
        }
    }

    fn evict_tombstone(&mut self, v: &View) {
        while let Some((slot, generation)) = self.tombstones.pop_front() {
            let state = self.slots[slot as usize].state;
            if self.past[slot as usize].generation == generation && state == State::Tombstone {
                return self.remove(v, slot);
            }
        }
    }

    /// Asks for a call of the handover code at `at` (earlier wins).
    pub(crate) fn wake(&mut self, slot: u32, at: Instant) {
        let f = &mut self.slots[slot as usize];
        if f.timer.is_none_or(|t| at < t) {
            f.timer = Some(at);
            let generation = self.past[slot as usize].generation;
            self.timers.push(Reverse((at, slot, generation)));
        }
    }

    // --- output ---

    pub(crate) fn drop_frame(&mut self, why: Drop) {
        self.drops.count(why);
    }

    /// Queues bytes that the data plane made.
    pub(crate) fn emit<O: Output>(&mut self, port: Port, bytes: &[u8], out: &mut O) {
        match out.frame(bytes) {
            Some(f) => out.send(port, f),
            None => self.drops.count(Drop::NoBuffer),
        }
    }

    /// Ends the freeze of a ticket with a failure.
    pub(crate) fn fail(&mut self, ticket: u64, fail: Fail) {
        self.events.push(Event::Failed { ticket, fail });
    }
}

/// Bytes of a buffer that holds a frame of this MTU: a multiple of a cache line,
/// with room for the Ethernet header and two VLAN tags.
fn hold_slot(mtu: usize) -> usize {
    (mtu + wire::ETH_LEN + 8).next_multiple_of(64)
}

/// Copies a frame's bytes to a held list, or counts why not.
pub(crate) fn hold_copy<F: Frame>(
    store: &mut hold::Store,
    list: &mut hold::List,
    drops: &mut Drops,
    max: usize,
    frame: &F,
    seq: u32,
    end: u32,
) -> bool {
    let copy = |to: &mut [u8]| {
        let whole = frame.copy_out(0, to);
        debug_assert!(whole);
    };
    let took = store.push_with(list, max, frame.len(), copy, seq, end);
    if !took {
        drops.count(Drop::HoldFull);
    }
    took
}
