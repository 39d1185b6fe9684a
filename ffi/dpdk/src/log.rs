//! Where the EAL's log goes. The last lines are always kept as well, so that
//! errors can say what a driver only logs.

use std::fs::File;
use std::io::Write;
use std::os::raw::c_char;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use dpdk_sys as sys;

use crate::error::{Error, Reason};

/// Bytes of log that are kept for error messages.
const KEEP: usize = 16 * 1024;
/// Bytes of log that an error message carries at most.
const SHOW: usize = 600;

/// Where log lines go.
pub enum Target {
    /// To standard error (the default).
    Stderr,
    /// Nowhere; errors still carry their lines.
    Quiet,
    /// To an open file.
    File(File),
    /// To a function, one whole line without its end at a time. It runs under a
    /// lock in whatever thread logs: it must be quick and must not call DPDK.
    Lines(Box<dyn FnMut(&str) + Send>),
}

/// Severity, from most to least severe; a level shows itself and those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Errors.
    Error = 4,
    /// Warnings.
    Warning = 5,
    /// Normal but significant.
    Notice = 6,
    /// Informational.
    Info = 7,
    /// Everything that the log types let through.
    Debug = 8,
}

struct State {
    target: Target,
    /// The tail of all output, at most `KEEP` bytes.
    kept: Vec<u8>,
    /// Bytes ever written.
    total: u64,
    /// The line that is not finished yet, for `Target::Lines`.
    partial: Vec<u8>,
}

static STATE: Mutex<State> = Mutex::new(State {
    target: Target::Stderr,
    kept: Vec::new(),
    total: 0,
    partial: Vec::new(),
});
static OPEN: Once = Once::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the log to `target` from now on; may be called before `Eal::init`.
pub fn set_target(target: Target) {
    state().target = target;
}

/// Shows nothing below `level`; may be called before `Eal::init`.
pub fn set_level(level: Level) {
    // SAFETY: sets one integer of DPDK's.
    unsafe { sys::rte_log_set_global_level(level as u32) };
}

/// Routes the EAL's log here. Called before `rte_eal_init`.
pub(crate) fn open() -> Result<(), Error> {
    let mut result = 0;
    OPEN.call_once(|| {
        // SAFETY: `sink` lives as long as the process and keeps no pointer.
        result = unsafe { sys::dts_log_open(Some(sink)) };
    });
    if result == 0 {
        Ok(())
    } else {
        Err(Error::Eal(Reason::new(result, mark())))
    }
}

/// A point in the log.
pub(crate) fn mark() -> u64 {
    state().total
}

/// What was logged since `mark`, as one line.
pub(crate) fn since(mark: u64) -> String {
    let state = state();
    let new = usize::try_from(state.total.saturating_sub(mark)).unwrap_or(usize::MAX);
    let from = state.kept.len() - new.min(state.kept.len()).min(SHOW);
    let text = String::from_utf8_lossy(&state.kept[from..]).into_owned();
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    // Below a driver's own words the EAL repeats that the call failed.
    let (eal, driver): (Vec<_>, Vec<_>) = lines.partition(|l| l.starts_with("EAL:"));
    if driver.is_empty() {
        eal.join("; ")
    } else {
        driver.join("; ")
    }
}

extern "C" fn sink(text: *const c_char, len: usize) {
    // SAFETY: the shim passes a readable buffer of `len` bytes for this call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    state().write(text);
}

impl State {
    fn write(&mut self, text: &[u8]) {
        self.total += text.len() as u64;
        self.kept.extend_from_slice(text);
        let surplus = self.kept.len().saturating_sub(KEEP);
        self.kept.drain(..surplus);
        // A log that cannot be written has nobody to tell.
        match &mut self.target {
            Target::Quiet => {}
            Target::Stderr => drop(std::io::stderr().write_all(text)),
            Target::File(file) => drop(file.write_all(text)),
            Target::Lines(line) => {
                self.partial.extend_from_slice(text);
                while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
                    line(String::from_utf8_lossy(&self.partial[..end]).trim_end());
                    self.partial.drain(..=end);
                }
                self.partial.truncate(KEEP);
            }
        }
    }
}
