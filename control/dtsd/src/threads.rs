//! Control threads: named, free of the core that the EAL pins its caller to, and
//! deaf to the real-time signals by which `net_tap` wakes its workers.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::unistd::Pid;
use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

/// Cores that the process was started on, before the EAL pinned anything.
static CORES: OnceLock<CpuSet> = OnceLock::new();

/// Stack of a control thread, bytes; none of them recurses.
const STACK: usize = 512 * 1024;

/// To be called first of all in the main thread: notes the cores that the
/// process may use and blocks the real-time signals, which every thread then
/// inherits (workers unblock them for themselves).
///
/// # Errors
/// What the kernel says.
pub fn prepare_process() -> anyhow::Result<()> {
    let cores = sched_getaffinity(Pid::from_raw(0))?;
    // A second call, as in tests, keeps the first answer.
    let _ = CORES.set(cores);
    dpdk::signals::block_realtime()?;
    Ok(())
}

/// Keeps in memory what the process has and will have of it, from its first use on: a file
/// that somebody copies would drive program and heap out, and a worker or the membership
/// wait for a disk. Called when the EAL has its memory: what is reserved and unused stays so.
///
/// # Errors
/// The process may not (CAP_IPC_LOCK, or RLIMIT_MEMLOCK).
pub fn keep_in_memory() -> nix::Result<()> {
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
}

/// Lets the calling thread run on every core that the process was started on.
pub fn unpin() {
    if let Some(cores) = CORES.get() {
        // A thread that stays pinned is slower and still right.
        let _ = sched_setaffinity(Pid::from_raw(0), cores);
    }
}

/// Starts a control thread.
///
/// # Errors
/// The process has no room for another thread.
pub fn spawn<F>(name: &str, run: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let body = move || {
        unpin();
        run();
    };
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
}
