//! Copies of client frames that must not be lost before the cut over, in
//! buffers of a fixed number, never in parked receive buffers (rule 15).

use crate::mutation::{Mutation, broken};

#[derive(Clone, Copy)]
struct Meta {
    len: u16,
    seq: u32,
    seq_end: u32,
}

/// All buffers of a worker.
pub struct Store {
    bytes: Box<[u8]>,
    /// Bytes of one buffer: a frame of the port's MTU fits.
    slot: usize,
    meta: Vec<Meta>,
    free: Vec<u32>,
}

/// Frames of one flow, in order of arrival.
#[derive(Debug, Default)]
pub struct List {
    slots: std::collections::VecDeque<u32>,
}

impl List {
    /// A list of nothing.
    pub const NEW: Self = Self {
        slots: std::collections::VecDeque::new(),
    };

    /// No frame is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// Buffers in use.
    pub fn buffers(&self) -> usize {
        self.slots.len()
    }
}

/// A frame taken out of a list.
#[derive(Clone, Debug)]
pub struct Held {
    /// The frame from its Ethernet header on.
    pub frame: Vec<u8>,
    /// Its first sequence number.
    pub seq: u32,
    /// The number behind it.
    pub seq_end: u32,
}

impl Store {
    /// Buffers of `slot` bytes each, `bytes` bytes in all.
    pub fn new(bytes: usize, slot: usize) -> Self {
        let n = (bytes / slot).max(1);
        Self {
            bytes: vec![0; n * slot].into_boxed_slice(),
            slot,
            meta: vec![
                Meta {
                    len: 0,
                    seq: 0,
                    seq_end: 0
                };
                n
            ],
            free: (0..n as u32).rev().collect(),
        }
    }

    /// Buffers in use.
    pub fn used(&self) -> usize {
        self.meta.len() - self.free.len()
    }

    /// Buffers in all.
    pub fn capacity(&self) -> usize {
        self.meta.len()
    }

    /// Copies a frame to the end of `list`; false when a cap is reached
    /// (`flow_max` in bytes of buffers) or the frame exceeds a buffer.
    pub fn push(
        &mut self,
        list: &mut List,
        flow_max: usize,
        frame: &[u8],
        seq: u32,
        seq_end: u32,
    ) -> bool {
        let copy = |to: &mut [u8]| to.copy_from_slice(frame);
        self.push_with(list, flow_max, frame.len(), copy, seq, seq_end)
    }

    /// As [`Self::push`] for a frame of `len` bytes that `copy` writes.
    pub fn push_with(
        &mut self,
        list: &mut List,
        flow_max: usize,
        len: usize,
        copy: impl FnOnce(&mut [u8]),
        seq: u32,
        seq_end: u32,
    ) -> bool {
        let full = (list.buffers() + 1) * self.slot > flow_max && !broken(Mutation::HoldCapOff);
        if len > self.slot || full {
            return false;
        }
        if self.free.is_empty() && broken(Mutation::HoldGrows) {
            self.grow();
        }
        let Some(slot) = self.free.pop() else {
            return false;
        };
        let at = slot as usize * self.slot;
        copy(&mut self.bytes[at..at + len]);
        self.meta[slot as usize] = Meta {
            len: len as u16,
            seq,
            seq_end,
        };
        list.slots.push_back(slot);
        true
    }

    /// One more buffer, which no rule allows.
    fn grow(&mut self) {
        let n = self.meta.len();
        let more = Meta {
            len: 0,
            seq: 0,
            seq_end: 0,
        };
        self.meta.push(more);
        let mut bytes = std::mem::take(&mut self.bytes).into_vec();
        bytes.resize((n + 1) * self.slot, 0);
        self.bytes = bytes.into_boxed_slice();
        self.free.push(n as u32);
    }

    /// Drops every frame of `list` that lies wholly at or below `ack`.
    pub fn release_below(&mut self, list: &mut List, ack: u32) {
        list.slots.retain(|&s| {
            let stays = crate::seq::lt(ack, self.meta[s as usize].seq_end);
            if !stays {
                self.free.push(s);
            }
            stays
        });
    }

    /// Takes the oldest frame out of `list`.
    pub fn pop(&mut self, list: &mut List) -> Option<Held> {
        let slot = list.slots.pop_front()?;
        let m = self.meta[slot as usize];
        let at = slot as usize * self.slot;
        self.free.push(slot);
        Some(Held {
            frame: self.bytes[at..at + m.len as usize].to_vec(),
            seq: m.seq,
            seq_end: m.seq_end,
        })
    }

    /// Drops all frames of `list`; gives their number.
    pub fn clear(&mut self, list: &mut List) -> usize {
        let n = list.slots.len();
        self.free.extend(list.slots.drain(..));
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: usize = 2048;

    #[test]
    fn caps_hold_and_all_come_back() {
        let mut s = Store::new(4 * SLOT, SLOT);
        let (mut a, mut b) = (List::default(), List::default());
        assert!(s.push(&mut a, 2 * SLOT, b"one", 0xffff_fffe, 1));
        assert!(s.push(&mut a, 2 * SLOT, b"two", 1, 4));
        assert!(!s.push(&mut a, 2 * SLOT, b"three", 4, 9), "flow cap");
        assert!(
            !s.push(&mut b, 100 * SLOT, &[0; SLOT + 1], 0, 1),
            "frame cap"
        );
        assert!(s.push(&mut b, 100 * SLOT, b"x", 0, 1));
        assert!(s.push(&mut b, 100 * SLOT, b"y", 1, 2));
        assert!(!s.push(&mut b, 100 * SLOT, b"z", 2, 3), "worker cap");
        s.release_below(&mut a, 1);
        assert_eq!(s.used(), 3);
        let h = s.pop(&mut a).unwrap();
        assert_eq!((h.frame.as_slice(), h.seq, h.seq_end), (&b"two"[..], 1, 4));
        assert!(s.pop(&mut a).is_none());
        assert_eq!(s.clear(&mut b), 2);
        assert_eq!(s.used(), 0);
    }
}
