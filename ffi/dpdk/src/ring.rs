//! A bounded queue of packets from many threads to one.

use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Live;
use crate::error::{Error, Reason, c_string};
use crate::log;

struct Inner {
    ring: NonNull<sys::rte_ring>,
    _live: Live,
}

// SAFETY: producers use the ring's multi-producer functions; the one consumer
// needs `&mut Ring`, and there is one `Ring`.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Inner {
    fn enqueue(&self, burst: &mut Burst) -> usize {
        burst.send(|start, len| {
            // SAFETY: `start` points to `len` owned mbufs; the ring owns those
            // that it took.
            unsafe { sys::dts_ring_enqueue_burst(self.ring.as_ptr(), start, len.into()) as usize }
        })
    }

    /// Only for the one consumer.
    fn dequeue(&self, burst: &mut Burst) -> usize {
        burst.receive(|start, room| {
            // SAFETY: `start` has room for `room` pointers, and what comes out
            // was put in by `enqueue`. The caller is the only consumer.
            unsafe { sys::dts_ring_dequeue_burst(self.ring.as_ptr(), start, room.into()) as usize }
        })
    }

    fn len(&self) -> usize {
        // SAFETY: the ring is alive.
        unsafe { sys::dts_ring_count(self.ring.as_ptr()) as usize }
    }

    fn capacity(&self) -> usize {
        // SAFETY: the ring is alive.
        unsafe { sys::dts_ring_capacity(self.ring.as_ptr()) as usize }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        while self.dequeue(&mut burst) > 0 {
            burst.clear();
        }
        // SAFETY: the last handle is going and the ring is empty.
        unsafe { sys::rte_ring_free(self.ring.as_ptr()) };
    }
}

/// The consumer's end, of which there is one. Packets inside are freed when it
/// and all [`Producer`]s are gone.
pub struct Ring(Arc<Inner>);

/// A producer's end; any number may exist, in any thread.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

impl Ring {
    /// Makes a ring for exactly `size` packets (1 to 2^30).
    ///
    /// # Errors
    /// The size is out of range, the name exists, or there is no memory.
    pub fn new(name: &str, size: u32) -> Result<Ring, Error> {
        let live = Live::take()?;
        let fail = |reason| Error::Ring {
            name: name.to_owned(),
            reason,
        };
        if size == 0 || size > 1 << 30 {
            return Err(fail(Reason::text(format!(
                "a size of {size} is not in 1 to 2^30"
            ))));
        }
        let c_name = c_string(name)?;
        let mark = log::mark();
        // SAFETY: the name is a C string for the call; the EAL runs. -1 is any
        // NUMA node.
        let ring =
            unsafe { sys::rte_ring_create(c_name.as_ptr(), size, -1, sys::DTS_RING_MP_SC_EXACT) };
        let ring = NonNull::new(ring).ok_or_else(|| fail(Reason::last(mark)))?;
        Ok(Ring(Arc::new(Inner { ring, _live: live })))
    }

    /// A producer's end.
    pub fn producer(&self) -> Producer {
        Producer(Arc::clone(&self.0))
    }

    /// Appends waiting packets to `burst`, as many as fit; returns how many.
    #[inline]
    pub fn dequeue_burst(&mut self, burst: &mut Burst) -> usize {
        self.0.dequeue(burst)
    }

    /// As [`Producer::enqueue_burst`].
    pub fn enqueue_burst(&self, burst: &mut Burst) -> usize {
        self.0.enqueue(burst)
    }

    /// Packets inside.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if none is inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets that fit.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} of {})", self.len(), self.capacity())
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({} of {})", self.len(), self.capacity())
    }
}

impl Producer {
    /// Moves packets from the front of `burst` into the ring and returns how
    /// many fitted; the others stay in it, in order.
    #[inline]
    pub fn enqueue_burst(&self, burst: &mut Burst) -> usize {
        self.0.enqueue(burst)
    }

    /// Packets inside.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if none is inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets that fit.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
