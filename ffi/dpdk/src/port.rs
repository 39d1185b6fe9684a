//! An Ethernet device: set-up, start, stop, counters.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::raw::c_char;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::eal::Live;
use crate::error::{Error, Reason, c_string};
use crate::log;
use crate::mempool::Mempool;
use crate::queue::{RxQueue, TxQueue};

mod types;

pub use types::{Configured, DevInfo, Link, PortConf, PortStats, offload, rss};

/// A device's number in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Ports that a `Port` or one of its queues holds.
static OPEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn open_ports() -> MutexGuard<'static, BTreeSet<u16>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Rx,
    Tx,
}

#[derive(Default)]
struct Slot {
    ready: bool,
    taken: bool,
    /// Keeps the pool of a receive queue alive.
    pool: Option<Mempool>,
}

#[derive(Default)]
pub(crate) struct State {
    rx: Vec<Slot>,
    tx: Vec<Slot>,
    /// The device holds a pointer to it.
    rss_key: Vec<u8>,
    rx_desc: u16,
    tx_desc: u16,
    started: bool,
    closed: bool,
}

impl State {
    fn slots(&mut self, direction: Direction) -> &mut Vec<Slot> {
        match direction {
            Direction::Rx => &mut self.rx,
            Direction::Tx => &mut self.tx,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn taken(&self) -> usize {
        self.rx.iter().chain(&self.tx).filter(|s| s.taken).count()
    }
}

/// What `Port` and its queues share. It closes the device when all are gone.
pub(crate) struct Inner {
    pub(crate) id: PortId,
    name: String,
    state: Mutex<State>,
    _live: Live,
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn release(&self, direction: Direction, queue: u16) {
        if let Some(slot) = self.state().slots(direction).get_mut(usize::from(queue)) {
            slot.taken = false;
        }
    }

    pub(crate) fn fail(&self, action: &'static str, reason: Reason) -> Error {
        Error::device(&self.name, action, reason)
    }

    /// Runs a call of DPDK's that returns 0 or more, or a negative errno.
    fn call(&self, action: &'static str, f: impl FnOnce(u16) -> i32) -> Result<(), Error> {
        let mark = log::mark();
        match f(self.id.0) {
            0.. => Ok(()),
            code => Err(self.fail(action, Reason::new(code, mark))),
        }
    }

    fn stop(&self, state: &mut State) -> Result<(), Error> {
        if state.started {
            // SAFETY: a valid port; its queues are back.
            self.call("cannot stop", |id| unsafe { sys::rte_eth_dev_stop(id) })?;
            state.started = false;
        }
        Ok(())
    }

    fn close(&self, state: &mut State) -> Result<(), Error> {
        if state.closed {
            return Ok(());
        }
        self.stop(state)?;
        state.closed = true;
        // SAFETY: a valid, stopped port, which nothing here uses after.
        let result = self.call("cannot close", |id| unsafe { sys::rte_eth_dev_close(id) });
        // The driver has given its buffers back; the pools may go.
        state.rx.clear();
        state.tx.clear();
        open_ports().remove(&self.id.0);
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        // There is nobody to report to; `Port::close` reports.
        if self.close(&mut state).is_err() {
            // The device may still write to its buffers: keep the pools.
            std::mem::forget(state);
        }
    }
}

/// An open device, and its only handle apart from its queues. Dropping it closes
/// the device as soon as the last queue handle is dropped too. Calls are
/// serialised; none of them belongs on the packet path.
pub struct Port(Arc<Inner>);

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port")
            .field("id", &self.0.id.0)
            .field("name", &self.0.name)
            .finish()
    }
}

/// The port with this name, if there is one.
pub(crate) fn id_by_name(name: &str) -> Result<Option<PortId>, Error> {
    let c_name = c_string(name)?;
    let mut id = 0;
    // SAFETY: a C string and a place for the result, for the call.
    let code = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
    Ok((code == 0).then_some(PortId(id)))
}

impl Port {
    /// Opens the port with this name (a vdev's name or a PCI address).
    ///
    /// # Errors
    /// There is none, or it is open already.
    pub fn by_name(name: &str) -> Result<Port, Error> {
        let _live = Live::take()?;
        match id_by_name(name)? {
            Some(id) => Self::by_id(id),
            None => Err(Error::device(
                name,
                "cannot open",
                Reason::text("no such port"),
            )),
        }
    }

    /// Opens a port by its number.
    ///
    /// # Errors
    /// There is none, or it is open already.
    pub fn by_id(id: PortId) -> Result<Port, Error> {
        let live = Live::take()?;
        let mut name = [0 as c_char; sys::DTS_ETH_NAME_MAX as usize];
        // SAFETY: the buffer has the length that DPDK asks for.
        let code = unsafe { sys::rte_eth_dev_get_name_by_port(id.0, name.as_mut_ptr()) };
        if code != 0 {
            let text = Reason::text("no such port");
            return Err(Error::device(
                &format!("port {}", id.0),
                "cannot open",
                text,
            ));
        }
        // SAFETY: the call above wrote a terminated string.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }
            .to_string_lossy()
            .into_owned();
        if !open_ports().insert(id.0) {
            return Err(Error::device(
                &name,
                "cannot open",
                Reason::text("it is open already"),
            ));
        }
        Ok(Port(Arc::new(Inner {
            id,
            name,
            state: Mutex::default(),
            _live: live,
        })))
    }

    /// Its number.
    pub fn id(&self) -> PortId {
        self.0.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The state, if the device is not closed.
    pub(crate) fn open(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.0.state();
        if state.closed {
            return Err(self.0.fail("cannot use", Reason::text("it is closed")));
        }
        Ok(state)
    }

    /// The state, if in addition no queue handle is out.
    fn quiet(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.open()?;
        match state.taken() {
            0 => Ok(state),
            queues => Err(Error::QueuesInUse {
                device: self.0.name.clone(),
                queues,
            }),
        }
    }

    /// Runs a control call on the open device.
    pub(crate) fn control(
        &self,
        action: &'static str,
        f: impl FnOnce(u16) -> i32,
    ) -> Result<(), Error> {
        let _state = self.open()?;
        self.0.call(action, f)
    }

    fn raw_info(&self) -> Result<sys::rte_eth_dev_info, Error> {
        let mut info = MaybeUninit::zeroed();
        // SAFETY: a place for the result.
        self.0.call("cannot be asked what it can do", |id| unsafe {
            sys::rte_eth_dev_info_get(id, info.as_mut_ptr())
        })?;
        // SAFETY: filled by the call, and plain C data that was zero before.
        Ok(unsafe { info.assume_init() })
    }

    /// What the device can do.
    ///
    /// # Errors
    /// The driver's.
    pub fn info(&self) -> Result<DevInfo, Error> {
        let _state = self.open()?;
        Ok(DevInfo::new(&self.raw_info()?))
    }

    /// Sets queues, MTU, offloads and RSS. The port must not be started, and the
    /// queues are to be set up anew.
    ///
    /// # Errors
    /// More queues than the device has, an MTU out of its range, an RSS key of
    /// the wrong length, and what the driver refuses.
    pub fn configure(&self, conf: &PortConf) -> Result<Configured, Error> {
        const ACTION: &str = "cannot configure";
        let mut state = self.quiet()?;
        if state.started {
            return Err(self.0.fail(ACTION, Reason::text("it is started")));
        }
        let info = self.raw_info()?;
        let (mut raw, mut done) =
            types::plan(conf, &info).map_err(|text| self.0.fail(ACTION, Reason::text(text)))?;
        // The device keeps the pointer and reads the key when it starts, so the
        // key lives in the state, next to the old one until that is replaced.
        let mut key = conf.rss_key.clone().unwrap_or_default();
        if done.rss && !key.is_empty() {
            raw.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            raw.rx_adv_conf.rss_conf.rss_key_len = key.len() as _;
        }
        state.rx.clear();
        state.tx.clear();
        // SAFETY: a stopped port whose queues are back, and a complete structure.
        self.0.call(ACTION, |id| unsafe {
            sys::rte_eth_dev_configure(id, conf.rx_queues, conf.tx_queues, &raw)
        })?;
        state.rss_key = key;
        // SAFETY: two places for in and out values.
        self.0.call("cannot set its descriptors", |id| unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut done.rx_desc, &mut done.tx_desc)
        })?;
        if !conf.keep_mtu {
            self.set_mtu(conf.mtu)?;
        }
        (state.rx_desc, state.tx_desc) = (done.rx_desc, done.tx_desc);
        state.rx.resize_with(conf.rx_queues.into(), Slot::default);
        state.tx.resize_with(conf.tx_queues.into(), Slot::default);
        Ok(done)
    }

    /// Tells the device its MTU: for a TAP this sets the interface's.
    fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        let mark = log::mark();
        // SAFETY: a call on a valid port.
        match unsafe { sys::rte_eth_dev_set_mtu(self.0.id.0, mtu) } {
            0 => Ok(()),
            // Memory devices have no MTU; the configured one was accepted.
            code if code == -libc::ENOTSUP => Ok(()),
            code => Err(self.0.fail("cannot set its MTU", Reason::new(code, mark))),
        }
    }

    /// Sets one receive queue up, with packets from `pool`.
    ///
    /// # Errors
    /// No such queue, or the pool's data room is too small for the driver.
    pub fn setup_rx_queue(&self, queue: u16, pool: &Mempool) -> Result<(), Error> {
        const ACTION: &str = "cannot set a receive queue up";
        let mut state = self.quiet()?;
        let desc = state.rx_desc;
        let Some(slot) = state.rx.get_mut(usize::from(queue)) else {
            return Err(self
                .0
                .fail(ACTION, Reason::text(format!("it has no queue {queue}"))));
        };
        // SAFETY: a configured port; the slot keeps the pool alive as long as
        // the device uses it.
        self.0.call(ACTION, |id| unsafe {
            let socket = sys::rte_eth_dev_socket_id(id) as u32;
            let conf = std::ptr::null();
            sys::rte_eth_rx_queue_setup(id, queue, desc, socket, conf, pool.as_ptr())
        })?;
        slot.pool = Some(pool.clone());
        slot.ready = true;
        Ok(())
    }

    /// Sets one transmit queue up.
    ///
    /// # Errors
    /// No such queue, and what the driver refuses.
    pub fn setup_tx_queue(&self, queue: u16) -> Result<(), Error> {
        const ACTION: &str = "cannot set a transmit queue up";
        let mut state = self.quiet()?;
        let desc = state.tx_desc;
        let Some(slot) = state.tx.get_mut(usize::from(queue)) else {
            return Err(self
                .0
                .fail(ACTION, Reason::text(format!("it has no queue {queue}"))));
        };
        // SAFETY: a configured port.
        self.0.call(ACTION, |id| unsafe {
            let socket = sys::rte_eth_dev_socket_id(id) as u32;
            sys::rte_eth_tx_queue_setup(id, queue, desc, socket, std::ptr::null())
        })?;
        slot.ready = true;
        Ok(())
    }

    /// Sets all queues up; receive queue `i` takes its packets from pool
    /// `i % pools.len()`.
    ///
    /// # Errors
    /// No pool, and as the single calls.
    pub fn setup_queues(&self, pools: &[Mempool]) -> Result<(), Error> {
        let (rx, tx) = {
            let state = self.open()?;
            (state.rx.len() as u16, state.tx.len() as u16)
        };
        for queue in 0..rx {
            let Some(pool) = pools.get(usize::from(queue) % pools.len().max(1)) else {
                let text = Reason::text("no packet pool");
                return Err(self.0.fail("cannot set a receive queue up", text));
            };
            self.setup_rx_queue(queue, pool)?;
        }
        (0..tx).try_for_each(|queue| self.setup_tx_queue(queue))
    }

    /// Starts the device.
    ///
    /// # Errors
    /// A queue that is not set up, and what the driver refuses.
    pub fn start(&self) -> Result<(), Error> {
        const ACTION: &str = "cannot start";
        let mut state = self.open()?;
        if state.rx.is_empty() && state.tx.is_empty() {
            return Err(self.0.fail(ACTION, Reason::text("it is not configured")));
        }
        if state.rx.iter().chain(&state.tx).any(|slot| !slot.ready) {
            return Err(self.0.fail(ACTION, Reason::text("a queue is not set up")));
        }
        if !state.started {
            let start = |id| {
                // SAFETY: a configured port with all its queues.
                unsafe { sys::rte_eth_dev_start(id) }
            };
            self.0.call(ACTION, start)?;
            state.started = true;
        }
        Ok(())
    }

    /// Stops the device. All queue handles must have been dropped.
    ///
    /// # Errors
    /// A queue handle is out, and what the driver refuses.
    pub fn stop(&self) -> Result<(), Error> {
        self.0.stop(&mut *self.quiet()?)
    }

    /// Stops and closes the device; a closed one cannot be opened again without
    /// `detach` and `attach`.
    ///
    /// # Errors
    /// A queue handle is out, and what the driver refuses.
    pub fn close(&self) -> Result<(), Error> {
        self.0.close(&mut *self.quiet()?)
    }

    /// Closes the device and takes it out of the EAL. With several ports on one
    /// device this detaches them all.
    ///
    /// # Errors
    /// A queue handle is out, and what the driver refuses.
    pub fn detach(self) -> Result<(), Error> {
        let device = {
            let _state = self.quiet()?;
            self.raw_info()?.device
        };
        self.close()?;
        if device.is_null() {
            return Ok(());
        }
        // SAFETY: the device is still on its bus: closing a port leaves it there.
        self.0
            .call("cannot detach", |_| unsafe { sys::rte_dev_remove(device) })
    }

    fn take(&self, direction: Direction, queue: u16) -> Result<Arc<Inner>, Error> {
        const ACTION: &str = "cannot give a queue";
        let mut state = self.open()?;
        if !state.started {
            return Err(self.0.fail(ACTION, Reason::text("it is not started")));
        }
        match state.slots(direction).get_mut(usize::from(queue)) {
            None => Err(self
                .0
                .fail(ACTION, Reason::text(format!("it has no queue {queue}")))),
            Some(slot) if slot.taken => Err(self
                .0
                .fail(ACTION, Reason::text(format!("queue {queue} is taken")))),
            Some(slot) => {
                slot.taken = true;
                Ok(Arc::clone(&self.0))
            }
        }
    }

    /// The handle of a receive queue of the started device.
    ///
    /// # Errors
    /// Not started, no such queue, or the handle is out.
    pub fn rx_queue(&self, queue: u16) -> Result<RxQueue, Error> {
        Ok(RxQueue::new(self.take(Direction::Rx, queue)?, queue))
    }

    /// The handle of a transmit queue of the started device.
    ///
    /// # Errors
    /// Not started, no such queue, or the handle is out.
    pub fn tx_queue(&self, queue: u16) -> Result<TxQueue, Error> {
        Ok(TxQueue::new(self.take(Direction::Tx, queue)?, queue))
    }

    /// Its MAC address.
    ///
    /// # Errors
    /// The driver's.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let mut mac = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: a place for the result.
        self.control("cannot tell its MAC address", |id| unsafe {
            sys::rte_eth_macaddr_get(id, &mut mac)
        })?;
        Ok(mac.addr_bytes)
    }

    /// Sets its MAC address.
    ///
    /// # Errors
    /// Not a unicast address, or the driver cannot.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        let mut mac = sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the address is copied.
        self.control("cannot set its MAC address", |id| unsafe {
            sys::rte_eth_dev_default_mac_addr_set(id, &mut mac)
        })
    }

    /// Receive frames for every address, or not.
    ///
    /// # Errors
    /// The driver cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), Error> {
        // SAFETY: calls on a valid port.
        self.control("cannot set promiscuous mode", |id| unsafe {
            if on {
                sys::rte_eth_promiscuous_enable(id)
            } else {
                sys::rte_eth_promiscuous_disable(id)
            }
        })
    }

    /// Receive every multicast frame, or not.
    ///
    /// # Errors
    /// The driver cannot.
    pub fn set_allmulticast(&self, on: bool) -> Result<(), Error> {
        // SAFETY: calls on a valid port.
        self.control("cannot set all-multicast mode", |id| unsafe {
            if on {
                sys::rte_eth_allmulticast_enable(id)
            } else {
                sys::rte_eth_allmulticast_disable(id)
            }
        })
    }

    /// Its counters since the start or `reset_stats`.
    ///
    /// # Errors
    /// The driver's.
    pub fn stats(&self) -> Result<PortStats, Error> {
        let mut stats = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: a place for the result.
        self.control("cannot tell its counters", |id| unsafe {
            sys::rte_eth_stats_get(id, stats.as_mut_ptr())
        })?;
        // SAFETY: plain integers, zero before the call filled them.
        Ok(PortStats::new(unsafe { stats.assume_init_ref() }))
    }

    /// Sets the counters to 0.
    ///
    /// # Errors
    /// The driver cannot.
    pub fn reset_stats(&self) -> Result<(), Error> {
        // SAFETY: a call on a valid port.
        self.control("cannot reset its counters", |id| unsafe {
            sys::rte_eth_stats_reset(id)
        })
    }

    /// The state of its link, without waiting for it.
    ///
    /// # Errors
    /// The driver's.
    pub fn link(&self) -> Result<Link, Error> {
        let (mut up, mut mbps) = (false, 0);
        // SAFETY: two places for the result.
        self.control("cannot tell its link", |id| unsafe {
            sys::dts_eth_link(id, &mut up, &mut mbps)
        })?;
        Ok(Link {
            up,
            mbps: (mbps != 0 && mbps != u32::MAX).then_some(mbps),
        })
    }

    /// True if its link is up.
    ///
    /// # Errors
    /// The driver's.
    pub fn link_up(&self) -> Result<bool, Error> {
        Ok(self.link()?.up)
    }
}

/// A driver's name as text.
fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: DPDK's names are static NUL-terminated strings.
    unsafe { CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}
