//! The real-time signals by which `net_tap` learns of received packets.
//!
//! They go to the process: a thread that does not poll must keep them blocked,
//! or it swallows them and `rx_burst` in the worker sees nothing. Block them in
//! the main thread before any other starts; each worker unblocks them for
//! itself.

use std::io;
use std::mem::MaybeUninit;
use std::os::raw::c_int;
use std::ptr;

use crate::error::{Error, Reason};

/// Blocks `SIGRTMIN` to `SIGRTMAX` in the calling thread; threads that it starts
/// inherit that.
///
/// # Errors
/// The system call fails, which it has no documented reason to.
pub fn block_realtime() -> Result<(), Error> {
    mask(libc::SIG_BLOCK)
}

/// Unblocks `SIGRTMIN` to `SIGRTMAX` in the calling thread. Call it only when
/// the ports are up: without a handler such a signal ends the process.
///
/// # Errors
/// The system call fails, which it has no documented reason to.
pub fn unblock_realtime() -> Result<(), Error> {
    mask(libc::SIG_UNBLOCK)
}

fn mask(how: c_int) -> Result<(), Error> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it, and
    // the signal numbers are the C library's own.
    let code = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    if code == 0 {
        return Ok(());
    }
    Err(Error::Thread(Reason::text(
        io::Error::from_raw_os_error(code).to_string(),
    )))
}
