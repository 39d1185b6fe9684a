//! The polling ends of a port.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::mbuf::Mbuf;
use crate::port::{Direction, Inner, PortId};

/// One receive queue, for one thread at a time. Dropping it gives it back to
/// its port.
pub struct RxQueue {
    port: Arc<Inner>,
    queue: u16,
    // A queue may move between threads but not be polled by two.
    not_sync: PhantomData<Cell<()>>,
}

/// One transmit queue, for one thread at a time. Dropping it gives it back to
/// its port.
pub struct TxQueue {
    port: Arc<Inner>,
    queue: u16,
    not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: Arc<Inner>, queue: u16) -> Self {
        RxQueue {
            port,
            queue,
            not_sync: PhantomData,
        }
    }

    /// Appends received packets to `burst`, as many as fit; returns how many.
    /// Give it room: some drivers return nothing for fewer than 4 to 32 slots.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        let (port, queue) = (self.port.id.0, self.queue);
        // SAFETY: the port is started, since it cannot stop while this handle
        // exists, and nobody else holds the queue. The driver gives packets of
        // which it keeps nothing.
        burst.receive(|start, room| unsafe { sys::dts_rx_burst(port, queue, start, room) }.into())
    }

    /// The port that it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number on that port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// A descriptor that becomes readable when packets wait, for `epoll`; `None`
    /// where the driver has none. Needs `PortConf::rx_interrupts`. It belongs to
    /// the driver and is valid as long as this handle.
    pub fn event_fd(&self) -> Option<RawFd> {
        // SAFETY: a call on a valid port and queue.
        let fd = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port.id.0, self.queue) };
        (fd >= 0).then_some(fd)
    }
}

impl TxQueue {
    pub(crate) fn new(port: Arc<Inner>, queue: u16) -> Self {
        TxQueue {
            port,
            queue,
            not_sync: PhantomData,
        }
    }

    /// Sends packets from the front of `burst` and returns how many the driver
    /// took; the others stay in it, in order. A driver may count a packet as
    /// taken and then drop it as an error of its own statistics.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        let (port, queue) = (self.port.id.0, self.queue);
        // SAFETY: as in `RxQueue::burst`; the driver owns what it took.
        burst.send(|start, len| unsafe { sys::dts_tx_burst(port, queue, start, len) }.into())
    }

    /// Makes a packet ready for which the device was asked for something
    /// ([`Mbuf::request`]). False where the driver cannot do it; the request then
    /// has to be done otherwise, the IPv4 header's checksum included.
    #[must_use]
    pub fn prepare(&mut self, mbuf: &mut Mbuf) -> bool {
        // SAFETY: the port is started and the packet is owned; the driver looks at
        // it and writes to its headers, which are in a buffer of its own.
        unsafe { sys::dts_tx_prepare(self.port.id.0, self.queue, mbuf.as_ptr()) }
    }

    /// The port that it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number on that port.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl std::fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RxQueue({} of port {})", self.queue, self.port.id.0)
    }
}

impl std::fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TxQueue({} of port {})", self.queue, self.port.id.0)
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        self.port.release(Direction::Rx, self.queue);
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.port.release(Direction::Tx, self.queue);
    }
}
