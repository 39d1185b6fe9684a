//! What can go wrong, with DPDK's reason and its log lines.

use std::ffi::{CStr, CString};
use std::fmt;

use dpdk_sys as sys;

/// Why DPDK refused: an error number, and what it logged meanwhile. Drivers
/// often return a bare -1 and say the reason only in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A positive error number, or 0 where `detail` alone tells.
    pub code: i32,
    /// The log lines of the failing call, joined by "; ", or a text of ours.
    pub detail: String,
}

impl Reason {
    /// A reason from a negative or positive error number and the log since
    /// `mark`.
    pub(crate) fn new(code: i32, mark: u64) -> Self {
        let detail = crate::log::since(mark);
        // Many drivers return -1 for anything; it is not EPERM then.
        let code = if code == -1 && !detail.is_empty() {
            0
        } else {
            code.abs()
        };
        Reason { code, detail }
    }

    /// The calling thread's `rte_errno` and the log since `mark`.
    pub(crate) fn last(mark: u64) -> Self {
        // SAFETY: reads a thread-local integer.
        Self::new(unsafe { sys::dts_errno() }, mark)
    }

    /// A reason found on this side of the border.
    pub(crate) fn text(detail: impl Into<String>) -> Self {
        Reason {
            code: 0,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code == 0 {
            return f.write_str(&self.detail);
        }
        // SAFETY: the result is a static or thread-local NUL-terminated string.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.code)) };
        f.write_str(&text.to_string_lossy())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// An error of this crate. `Display` is one line, fit for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `rte_eal_init` failed.
    #[error("the EAL did not start: {0}")]
    Eal(Reason),
    /// `Eal::init` was called before; DPDK allows one start per process.
    #[error("the EAL can be started only once per process")]
    AlreadyInitialised,
    /// Something needs a running EAL.
    #[error("the EAL is not running")]
    NotRunning,
    /// `Eal::cleanup` while pools, rings or ports still exist.
    #[error("{0} pools, rings, ports or registered threads are still in use")]
    InUse(usize),
    /// A name or an option contains a NUL byte.
    #[error("{0:?} contains a NUL byte")]
    Nul(String),
    /// A call on a device failed.
    #[error("{device}: {action}: {reason}")]
    Device {
        /// The device's name or the devargs that name it.
        device: String,
        /// What was tried, as in "cannot start".
        action: &'static str,
        /// Why it failed.
        reason: Reason,
    },
    /// A queue is out, so the port cannot be stopped, closed or set up anew.
    #[error("{device}: {queues} queue handles are still in use")]
    QueuesInUse {
        /// The device's name.
        device: String,
        /// How many handles are out.
        queues: usize,
    },
    /// A packet pool could not be made.
    #[error("packet pool {name}: {reason}")]
    Mempool {
        /// The pool's name.
        name: String,
        /// Why it failed.
        reason: Reason,
    },
    /// A ring could not be made.
    #[error("ring {name}: {reason}")]
    Ring {
        /// The ring's name.
        name: String,
        /// Why it failed.
        reason: Reason,
    },
    /// A hash table could not be made.
    #[error("hash table {name}: {reason}")]
    HashTable {
        /// The table's name.
        name: String,
        /// Why it failed.
        reason: Reason,
    },
    /// A thread could not be registered, or its signals not masked.
    #[error("thread: {0}")]
    Thread(Reason),
}

impl Error {
    pub(crate) fn device(device: &str, action: &'static str, reason: Reason) -> Self {
        Error::Device {
            device: device.to_owned(),
            action,
            reason,
        }
    }
}

/// `text` as a C string.
pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul(text.to_owned()))
}
