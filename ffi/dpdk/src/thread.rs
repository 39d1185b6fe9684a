//! Threads that the EAL did not start.

use std::io;
use std::marker::PhantomData;

use dpdk_sys as sys;

use crate::eal::Live;
use crate::error::{Error, Reason};
use crate::log;

/// The calling thread's registration; dropping it, in the same thread, ends it.
#[derive(Debug)]
pub struct Registered {
    _live: Live,
    // The lcore id is thread-local: the guard must stay in its thread.
    not_send: PhantomData<*const ()>,
}

/// Gives the calling thread an lcore id, and with it the pools' per-lcore
/// caches. It does not pin the thread.
///
/// # Errors
/// No lcore id is left (`RTE_MAX_LCORE`), or the thread has one already.
pub fn register() -> Result<Registered, Error> {
    let live = Live::take()?;
    if lcore_id().is_some() {
        return Err(Error::Thread(Reason::text("it has an lcore id already")));
    }
    let mark = log::mark();
    // SAFETY: the EAL runs.
    if unsafe { sys::rte_thread_register() } != 0 {
        return Err(Error::Thread(Reason::last(mark)));
    }
    Ok(Registered {
        _live: live,
        not_send: PhantomData,
    })
}

/// Lets the calling thread run ahead of all that are not real-time themselves
/// (`SCHED_FIFO`, lowest priority; `sched(7)`), for a thread that runs seldom and briefly and
/// must be punctual.
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE.
pub fn be_punctual() -> io::Result<()> {
    // SAFETY: all fields are integers, for which 0 is a value.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = 1;
    // SAFETY: 0 is the calling thread, and `param` lives through the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// The calling thread's lcore id, if it has one.
pub fn lcore_id() -> Option<u32> {
    // SAFETY: reads a thread-local integer.
    let id = unsafe { sys::dts_lcore_id() };
    (id != u32::MAX).then_some(id)
}

/// The core's time-stamp counter (`rte_rdtsc`): one pace whatever the core's clock does,
/// comparable within one core.
#[inline]
#[must_use]
pub fn cycles() -> u64 {
    // SAFETY: reads a counter.
    unsafe { sys::dts_cycles() }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: the thread that registered is the one that drops, since the
        // guard is not `Send`, and the EAL runs while a `Live` exists.
        unsafe { sys::rte_thread_unregister() };
    }
}
