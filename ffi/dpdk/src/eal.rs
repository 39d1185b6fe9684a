//! Starting and ending DPDK's environment.

use std::os::raw::c_char;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::error::{Error, Reason, c_string};
use crate::log;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Running,
    Over,
}

struct State {
    phase: Phase,
    live: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    phase: Phase::Fresh,
    live: 0,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running environment. Dropping it ends nothing; `cleanup` does, and so
/// does the end of the process.
#[derive(Debug)]
pub struct Eal(());

impl Eal {
    /// Starts the EAL with these options (`--no-huge`, `-l`, `0`, ...), without
    /// a program name. The calling thread becomes the main lcore and is pinned
    /// to it; threads that it starts later inherit that.
    ///
    /// # Errors
    /// A second call in the same process, whatever the first one's result; and
    /// whatever the EAL finds wrong, with its log lines.
    pub fn init(options: &[String]) -> Result<Eal, Error> {
        let mut state = state();
        if state.phase != Phase::Fresh {
            return Err(Error::AlreadyInitialised);
        }
        let mut args = vec![c_string("dpdk")?.into_raw()];
        for option in options {
            args.push(c_string(option)?.into_raw());
        }
        let count =
            i32::try_from(args.len()).map_err(|_| Error::Eal(Reason::text("too many options")))?;
        args.push(ptr::null_mut());
        // The EAL keeps pointers into its arguments and may permute them: the
        // array and its strings are given to it for good.
        let argv: &'static mut [*mut c_char] = args.leak();

        state.phase = Phase::Over;
        log::open()?;
        let mark = log::mark();
        // SAFETY: `argv` holds `count` NUL-terminated strings and a final null,
        // all of which live as long as the process.
        if unsafe { sys::rte_eal_init(count, argv.as_mut_ptr()) } < 0 {
            return Err(Error::Eal(Reason::last(mark)));
        }
        state.phase = Phase::Running;
        Ok(Eal(()))
    }

    /// Ends the EAL and releases its memory.
    ///
    /// # Errors
    /// Pools, rings, ports or registered threads still exist, or packets of a
    /// dropped pool do: nothing is done then and the environment stays up.
    pub fn cleanup(self) -> Result<(), Error> {
        let mut state = state();
        if state.live > 0 {
            return Err(Error::InUse(state.live));
        }
        let mark = log::mark();
        state.phase = Phase::Over;
        // SAFETY: the EAL runs, and no object of it is reachable any more:
        // each one holds a `Live`.
        match unsafe { sys::rte_eal_cleanup() } {
            0 => Ok(()),
            code => Err(Error::Eal(Reason::new(code, mark))),
        }
    }
}

/// A claim on the running EAL; `cleanup` refuses while one exists.
#[derive(Debug)]
pub(crate) struct Live(());

impl Live {
    pub(crate) fn take() -> Result<Live, Error> {
        let mut state = state();
        if state.phase != Phase::Running {
            return Err(Error::NotRunning);
        }
        state.live += 1;
        Ok(Live(()))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        state().live -= 1;
    }
}
