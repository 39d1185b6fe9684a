//! Pools of packet buffers.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Live;
use crate::error::{Error, Reason, c_string};
use crate::log;
use crate::mbuf::Mbuf;

/// Bytes in front of the data of a fresh buffer, part of its data room.
pub const HEADROOM: u16 = sys::DTS_PKTMBUF_HEADROOM as u16;
/// A data room that takes a 1500-byte frame with VLAN tags: 2048 bytes behind
/// the head room.
pub const DEFAULT_DATA_ROOM: u16 = 2048 + HEADROOM;

struct Inner {
    pool: NonNull<sys::rte_mempool>,
    name: String,
    data_room: u16,
    /// Kept for good where the pool has to be leaked.
    live: ManuallyDrop<Live>,
}

// SAFETY: a mempool is DPDK's multi-producer multi-consumer kind; its per-lcore
// caches are used only by the thread that owns the lcore id.
unsafe impl Send for Inner {}
// SAFETY: as above; everything behind a shared reference is such an operation.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // Packets may outlive the last handle; their memory then has to outlive
        // it too. A pool is made once and lives with the process, so the leak is
        // bounded, and `Eal::cleanup` keeps refusing.
        if self.available() == self.capacity() {
            // SAFETY: the last handle is going and every buffer is back.
            unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
            // SAFETY: dropped here only, and not used again.
            unsafe { ManuallyDrop::drop(&mut self.live) };
        }
    }
}

impl Inner {
    fn available(&self) -> u32 {
        // SAFETY: the pool is alive as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    fn capacity(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::dts_mempool_size(self.pool.as_ptr()) }
    }
}

/// A shared handle to a pool of packet buffers. The pool is freed with its last
/// handle, or leaked if packets of it still exist then.
#[derive(Clone)]
pub struct Mempool(Arc<Inner>);

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool")
            .field("name", &self.0.name)
            .field("in_use", &self.in_use())
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl Mempool {
    /// Makes a pool of `count` buffers, each with `data_room` bytes including
    /// [`HEADROOM`], and a cache of `cache` buffers per lcore (0 to 512, at most
    /// two thirds of `count`). `socket` is the NUMA node, or `None` for any.
    /// `count` is best one less than a power of two.
    ///
    /// # Errors
    /// A number out of range, a name that exists, or no memory.
    pub fn new(
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: Option<u32>,
    ) -> Result<Mempool, Error> {
        if data_room <= HEADROOM {
            return Err(Error::Mempool {
                name: name.to_owned(),
                reason: Reason::text(format!(
                    "a data room of {data_room} leaves nothing behind the head room of {HEADROOM}"
                )),
            });
        }
        Self::create(name, count, cache, data_room, socket)
    }

    fn create(
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: Option<u32>,
    ) -> Result<Mempool, Error> {
        let live = Live::take()?;
        let fail = |reason| Error::Mempool {
            name: name.to_owned(),
            reason,
        };
        if cache > sys::DTS_MEMPOOL_CACHE_MAX || u64::from(cache) * 3 > u64::from(count) * 2 {
            return Err(fail(Reason::text(format!(
                "a cache of {cache} does not fit {count} buffers (at most {} and two thirds)",
                sys::DTS_MEMPOOL_CACHE_MAX
            ))));
        }
        let c_name = c_string(name)?;
        let socket = socket.map_or(-1, |s| i32::try_from(s).unwrap_or(i32::MAX));
        let mark = log::mark();
        // SAFETY: the name is a C string for the call; the EAL runs.
        let pool = unsafe {
            sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, data_room, socket)
        };
        let pool = NonNull::new(pool).ok_or_else(|| fail(Reason::last(mark)))?;
        let live = ManuallyDrop::new(live);
        Ok(Mempool(Arc::new(Inner {
            pool,
            name: name.to_owned(),
            data_room,
            live,
        })))
    }

    /// A pool of buffers without data of their own, which share that of others.
    pub(crate) fn indirect(name: &str, count: u32, cache: u32) -> Result<Mempool, Error> {
        Self::create(name, count, cache, 0, None)
    }

    /// An empty packet, or `None` where the pool has run out.
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive.
        let raw = unsafe { sys::dts_pktmbuf_alloc(self.as_ptr()) };
        // SAFETY: a fresh mbuf has one owner, which is this value.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// A packet with these bytes in one segment, or `None` where the pool has
    /// run out or a buffer is too small.
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let len = u16::try_from(bytes.len()).ok()?;
        let mut mbuf = self.alloc()?;
        mbuf.append(len)?.copy_from_slice(bytes);
        Some(mbuf)
    }

    /// A packet with these bytes, in as many segments as they need, or `None`
    /// where the pool has run out.
    pub fn alloc_all(&self, bytes: &[u8]) -> Option<Mbuf> {
        let room = usize::from(self.data_room() - HEADROOM);
        let (first, rest) = bytes.split_at(bytes.len().min(room));
        let mut mbuf = self.alloc_from(first)?;
        // Linking goes from the end, so that no link is walked twice.
        let mut tail: Option<Mbuf> = None;
        for part in rest.rchunks(room) {
            let mut segment = self.alloc_from(part)?;
            if let Some(behind) = tail.take() {
                segment.chain(behind).ok()?;
            }
            tail = Some(segment);
        }
        if let Some(tail) = tail {
            mbuf.chain(tail).ok()?;
        }
        Some(mbuf)
    }

    /// Appends `count` empty packets to `burst`, all or none (the pool or the
    /// burst has no room). True if all.
    pub fn alloc_bulk(&self, burst: &mut Burst, count: usize) -> bool {
        // SAFETY: `fill` gives room for `count` pointers, and the call either
        // writes all of them or none.
        burst.fill(count, |room| unsafe {
            sys::dts_pktmbuf_alloc_bulk(self.as_ptr(), room, count as u32) == 0
        })
    }

    /// Buffers in the pool and its caches. It walks all caches: for scrapes.
    pub fn available(&self) -> u32 {
        self.0.available()
    }

    /// Buffers outside: in packets, and in the receive queues of ports.
    pub fn in_use(&self) -> u32 {
        self.capacity().saturating_sub(self.available())
    }

    /// Buffers that the pool was made with.
    pub fn capacity(&self) -> u32 {
        self.0.capacity()
    }

    /// Bytes per buffer, [`HEADROOM`] included.
    pub fn data_room(&self) -> u16 {
        self.0.data_room
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.0.pool.as_ptr()
    }
}
