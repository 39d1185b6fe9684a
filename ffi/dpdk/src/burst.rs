//! An array of packets that moves as one.

use std::mem::MaybeUninit;
use std::ops::{Index, IndexMut};
use std::slice;

use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Up to [`Burst::CAPACITY`] packets in order. What is left in it is freed on
/// drop; `len` or `clear` tells how many that is.
pub struct Burst {
    slots: [MaybeUninit<Mbuf>; Burst::CAPACITY],
    len: usize,
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Burst {
    /// Packets that a burst can hold.
    pub const CAPACITY: usize = 64;

    /// An empty burst.
    pub const fn new() -> Burst {
        Burst {
            slots: [const { MaybeUninit::uninit() }; Burst::CAPACITY],
            len: 0,
        }
    }

    /// Packets in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        Self::CAPACITY - self.len
    }

    /// True if none fits any more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    /// The packets in order.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` slots are initialised.
        unsafe { slice::from_raw_parts(self.slots.as_ptr().cast(), self.len) }
    }

    /// The packets in order, to change or to swap.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: the first `len` slots are initialised.
        unsafe { slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast(), self.len) }
    }

    /// The packets in order.
    pub fn iter(&self) -> slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// The packets in order, to change.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Adds a packet at the end; gives it back where the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.slots.get_mut(self.len) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the slot was initialised and no longer counts as such.
        Some(unsafe { self.slots[self.len].assume_init_read() })
    }

    /// Takes all packets, first to last. Those that the iterator has not given
    /// when it is dropped are freed.
    pub fn drain(&mut self) -> Drain<'_> {
        let end = std::mem::take(&mut self.len);
        Drain {
            burst: self,
            next: 0,
            end,
        }
    }

    /// Moves packets from the front of `other` behind those of this burst, as
    /// many as fit; returns how many.
    pub fn take_from(&mut self, other: &mut Burst) -> usize {
        let n = self.room().min(other.len);
        for slot in 0..n {
            // SAFETY: an initialised slot of `other`, which `remove_front`
            // below stops counting.
            self.slots[self.len + slot].write(unsafe { other.slots[slot].assume_init_read() });
        }
        self.len += n;
        other.remove_front(n);
        n
    }

    /// Frees those packets whose number in the burst, counted from 0, is a bit of `gone`; the
    /// others stay, in order. Returns how many went.
    #[inline]
    pub fn discard(&mut self, gone: u64) -> usize {
        const { assert!(Burst::CAPACITY <= u64::BITS as usize) };
        if gone == 0 {
            return 0;
        }
        if gone.trailing_ones() as usize >= self.len {
            return self.clear();
        }
        let (mut kept, mut freed) = (0, 0);
        let mut list = [std::ptr::null_mut(); Burst::CAPACITY];
        let all = self.as_ptrs();
        for i in 0..std::mem::take(&mut self.len) {
            // SAFETY: the first `len` slots are initialised, and no longer counted. Each is read
            // before it is written to, since `kept` is never above `i`.
            unsafe {
                // Which one goes follows no pattern that a branch could be foreseen by.
                let (mbuf, goes) = (*all.add(i), (gone >> i & 1) as usize);
                (list[freed], *all.add(kept)) = (mbuf, mbuf);
                (freed, kept) = (freed + goes, kept + 1 - goes);
            }
        }
        self.len = kept;
        // SAFETY: `freed` packets that were owned here and are nowhere else now.
        unsafe { sys::dts_pktmbuf_free_burst(list.as_mut_ptr(), freed as u32) };
        freed
    }

    /// Frees all packets; returns how many they were.
    pub fn clear(&mut self) -> usize {
        let n = std::mem::take(&mut self.len);
        if n > 0 {
            // SAFETY: the first `n` slots are initialised, owned here and no
            // longer counted; an `Mbuf` is one mbuf pointer.
            unsafe { sys::dts_pktmbuf_free_burst(self.as_ptrs(), n as u32) };
        }
        n
    }

    fn as_ptrs(&mut self) -> *mut *mut sys::rte_mbuf {
        self.slots.as_mut_ptr().cast()
    }

    /// Forgets the first `n` packets, whose ownership has passed on, and moves
    /// the others up.
    fn remove_front(&mut self, n: usize) {
        let rest = self.len - n;
        if rest > 0 && n > 0 {
            self.slots.rotate_left(n);
        }
        self.len = rest;
    }

    /// Lets `give` write mbuf pointers behind the packets, into a room of the
    /// given number of slots; it returns how many it wrote.
    pub(crate) fn receive(
        &mut self,
        give: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> usize,
    ) -> usize {
        let room = self.room();
        if room == 0 {
            return 0;
        }
        // SAFETY: `len` is below the capacity.
        let start = unsafe { self.as_ptrs().add(self.len) };
        let n = give(start, room as u16).min(room);
        self.len += n;
        n
    }

    /// As `receive` for exactly `count` pointers, all or none.
    pub(crate) fn fill(
        &mut self,
        count: usize,
        give: impl FnOnce(*mut *mut sys::rte_mbuf) -> bool,
    ) -> bool {
        if count > self.room() {
            return false;
        }
        self.receive(|start, _| if give(start) { count } else { 0 }) == count
    }

    /// Shows all packets to `take`, which returns how many of the first it now
    /// owns; the others stay, in order.
    pub(crate) fn send(
        &mut self,
        take: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> usize,
    ) -> usize {
        if self.len == 0 {
            return 0;
        }
        let len = self.len;
        let n = take(self.as_ptrs(), len as u16).min(len);
        self.remove_front(n);
        n
    }
}

impl Index<usize> for Burst {
    type Output = Mbuf;

    fn index(&self, index: usize) -> &Mbuf {
        &self.as_slice()[index]
    }
}

impl IndexMut<usize> for Burst {
    fn index_mut(&mut self, index: usize) -> &mut Mbuf {
        &mut self.as_mut_slice()[index]
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Mbuf;
    type IntoIter = slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Mbuf;
    type IntoIter = slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Gives the packets of a burst away, first to last.
pub struct Drain<'a> {
    burst: &'a mut Burst,
    next: usize,
    end: usize,
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.end {
            return None;
        }
        let slot = &self.burst.slots[self.next];
        self.next += 1;
        // SAFETY: slots from `next` to `end` are initialised and counted by
        // nothing but this iterator, which has just moved on.
        Some(unsafe { slot.assume_init_read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
