//! Segmentation in software (`librte_gso`).

use std::ptr::{self, NonNull};

use dpdk_sys as sys;

use crate::error::Error;
use crate::mbuf::{Headers, Mbuf};
use crate::mempool::{HEADROOM, Mempool};

/// Packets that one packet can become: 64 KiB in the smallest segments that Linux
/// makes (`net.ipv4.tcp_min_snd_mss`, 48).
const MOST: usize = 1366;
/// Bytes of headers that are copied to each segment: Ethernet, a VLAN tag, IPv4 and
/// TCP, each as long as it can be.
const HEADERS: u16 = 256;

/// Cuts TCP/IPv4 packets into segments whose payload stays where it is.
pub struct Gso {
    headers: Mempool,
    indirect: Mempool,
    out: Box<[*mut sys::rte_mbuf; MOST]>,
}

// SAFETY: the pointers are scratch space between two statements of `segment`.
unsafe impl Send for Gso {}

impl Gso {
    /// With room for `count` segments on their way at once; `name` is that of its
    /// pools.
    ///
    /// # Errors
    /// As [`Mempool::new`].
    pub fn new(name: &str, count: u32, cache: u32) -> Result<Gso, Error> {
        Ok(Gso {
            headers: Mempool::new(&format!("{name}_h"), count, cache, HEADROOM + HEADERS, None)?,
            indirect: Mempool::indirect(&format!("{name}_p"), count, cache)?,
            out: Box::new([ptr::null_mut(); MOST]),
        })
    }

    /// The same buffers for another thread.
    pub fn share(&self) -> Gso {
        Gso {
            headers: self.headers.clone(),
            indirect: self.indirect.clone(),
            out: Box::new([ptr::null_mut(); MOST]),
        }
    }

    /// Cuts the packet into segments of at most `size` payload bytes and gives
    /// them to `emit` in order: sequence numbers, lengths, identifications, PSH and
    /// FIN are right; checksums are not. They are to be sent as they are, once
    /// their checksums are filled in. Their payload is the packet's own.
    ///
    /// # Errors
    /// The packet, as it was but for its offload flags, where buffers have run out
    /// or it is nothing to be cut: no TCP over IPv4, or no more than `size` bytes.
    pub fn segment(
        &mut self,
        mbuf: Mbuf,
        h: &Headers,
        size: u16,
        mut emit: impl FnMut(Mbuf),
    ) -> Result<(), Mbuf> {
        let large =
            h.end() + usize::from(size) <= usize::from(u16::MAX) && h.end() <= usize::from(HEADERS);
        if !h.tcp || h.ipv6 || size == 0 || !large {
            return Err(mbuf);
        }
        let headers = sys::dts_headers {
            l2: h.l2,
            l3: h.l3,
            l4: h.l4,
            version: 4,
            proto: 6,
        };
        // SAFETY: the packet is owned, its headers were found in its first segment,
        // both pools are alive, and `out` has room for MOST pointers.
        let n = unsafe {
            sys::dts_gso_tcp4(
                mbuf.as_ptr(),
                &headers,
                size,
                self.headers.as_ptr(),
                self.indirect.as_ptr(),
                self.out.as_mut_ptr(),
                MOST as u16,
            )
        };
        let Ok(n @ 1..) = usize::try_from(n) else {
            return Err(mbuf);
        };
        for &raw in &self.out[..n] {
            let Some(raw) = NonNull::new(raw) else {
                continue;
            };
            // SAFETY: the library gave this packet away. Its first segment is a
            // fresh buffer; the others are indirect ones, which are nobody else's
            // and hold the payload's buffers alive.
            let mut segment = unsafe { Mbuf::from_raw(raw) };
            // Flags were copied, and with them what kind of buffer the packet's is.
            segment.fresh();
            emit(segment);
        }
        // The packet itself goes; its buffers go with the last segment.
        drop(mbuf);
        Ok(())
    }

    /// Buffers in use, of both kinds.
    pub fn in_use(&self) -> u32 {
        self.headers.in_use() + self.indirect.in_use()
    }
}

impl std::fmt::Debug for Gso {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gso")
            .field("in_use", &self.in_use())
            .finish()
    }
}
