//! DPDK's hash table (`rte_hash`), for benchmarks: the data plane has its own.

use std::marker::PhantomData;
use std::os::raw::c_void;
use std::ptr::{self, NonNull};

use dpdk_sys as sys;

use crate::eal::Live;
use crate::error::{Error, Reason, c_string};
use crate::log;

/// A table from keys of `K` bytes to positions, with hashes that the caller computes.
/// Made without any of DPDK's flags for several threads: for one at a time.
pub struct HashTable<const K: usize> {
    table: NonNull<sys::rte_hash>,
    // Keeps the table in one thread.
    not_sync: PhantomData<*const ()>,
    _live: Live,
}

impl<const K: usize> std::fmt::Debug for HashTable<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashTable of {K}-byte keys")
    }
}

impl<const K: usize> HashTable<K> {
    /// Lookups of one call, at most.
    pub const BULK: usize = sys::DTS_HASH_BULK_MAX as usize;

    /// Makes a table for `entries` keys, in the EAL's memory.
    ///
    /// # Errors
    /// The size is out of range, the name exists, or there is no memory.
    pub fn new(name: &str, entries: u32) -> Result<Self, Error> {
        let live = Live::take()?;
        let c_name = c_string(name)?;
        let parameters = sys::rte_hash_parameters {
            name: c_name.as_ptr(),
            entries,
            reserved: 0,
            key_len: K as u32,
            // Never called: each call brings its hash.
            hash_func: None,
            hash_func_init_val: 0,
            socket_id: 0,
            extra_flag: 0,
        };
        let mark = log::mark();
        // SAFETY: a complete structure with a C string, both alive for the call; the
        // EAL runs.
        let table = unsafe { sys::rte_hash_create(&parameters) };
        let table = NonNull::new(table).ok_or_else(|| Error::HashTable {
            name: name.to_owned(),
            reason: Reason::last(mark),
        })?;
        Ok(Self {
            table,
            not_sync: PhantomData,
            _live: live,
        })
    }

    /// Adds a key with its hash; its position, or `None` where the table is full. A key
    /// that is there keeps its position.
    pub fn add(&mut self, key: &[u8; K], hash: u32) -> Option<u32> {
        // SAFETY: the table is alive and this thread's alone; it copies the `K` bytes that
        // it was made for.
        let position = unsafe {
            let key = key.as_ptr().cast::<c_void>();
            sys::rte_hash_add_key_with_hash(self.table.as_ptr(), key, hash)
        };
        u32::try_from(position).ok()
    }

    /// Looks up to [`Self::BULK`] keys up at once: the position of each, or a negative number where
    /// it is not there. False, and nothing done, where the three differ in length or are
    /// longer.
    pub fn find(&self, keys: &[[u8; K]], hashes: &[u32], positions: &mut [i32]) -> bool {
        let n = keys.len();
        if n == 0 || n > Self::BULK || hashes.len() != n || positions.len() != n {
            return false;
        }
        let mut list = [ptr::null::<c_void>(); sys::DTS_HASH_BULK_MAX as usize];
        for (at, key) in list.iter_mut().zip(keys) {
            *at = key.as_ptr().cast();
        }
        // SAFETY: `n` pointers to keys of `K` bytes, `n` hashes and room for `n` results,
        // all alive for the call; the hashes are only read.
        let code = unsafe {
            sys::rte_hash_lookup_with_hash_bulk(
                self.table.as_ptr(),
                list.as_mut_ptr(),
                hashes.as_ptr().cast_mut(),
                n as u32,
                positions.as_mut_ptr(),
            )
        };
        code == 0
    }
}

impl<const K: usize> Drop for HashTable<K> {
    fn drop(&mut self) {
        // SAFETY: the only handle is going.
        unsafe { sys::rte_hash_free(self.table.as_ptr()) };
    }
}
