//! `request_handover()` of the DTS paper (figure 3), as a Rust function and as
//! a C shared library with the header `dts.h`.
//!
//! Each calling thread keeps one connection to the daemon of its node. The
//! daemon's socket is `/run/dts/rpc.sock`, or what the environment variable
//! `DTS_RPC_SOCKET` names when a thread calls for the first time.

#[allow(unsafe_code)]
mod c_abi;

pub use dts_proto::rpc::{Done, FailCode, MAX_REQUEST, Replay};

use dts_proto::rpc::{Client, ClientError, DEFAULT_SOCKET};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// Environment variable that names the daemon's socket.
pub const SOCKET_VARIABLE: &str = "DTS_RPC_SOCKET";

/// How long a call waits for the daemon. Longer than the daemon's longest possible
/// `unknown_deadline_ms`, after which the daemon has told what it knows.
pub const TIMEOUT: Duration = Duration::from_secs(75);

/// Why a handover did not succeed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HandoverError(#[from] ClientError);

impl HandoverError {
    /// What may be done next; `None` when there is no daemon to ask (the
    /// connection is untouched).
    #[must_use]
    pub fn code(&self) -> Option<FailCode> {
        self.0.code()
    }

    /// The `errno` that the C function sets for this error; see `dts.h`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match &self.0 {
            ClientError::Unavailable { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => libc::EACCES,
                _ => libc::ENOTCONN,
            },
            ClientError::Descriptor(source) => source.raw_os_error().unwrap_or(libc::EBADF),
            ClientError::Request(_) => libc::EOPNOTSUPP,
            ClientError::Lost(_) => libc::ECONNABORTED,
            ClientError::Failed { code, .. } => match code {
                FailCode::Refused => libc::ECONNREFUSED,
                FailCode::Unreachable => libc::EHOSTUNREACH,
                FailCode::Aborted => libc::ETIMEDOUT,
                FailCode::Unknown => libc::ECONNABORTED,
                FailCode::NotEligible => libc::EOPNOTSUPP,
                FailCode::Busy => libc::EBUSY,
                FailCode::Denied => libc::EACCES,
                FailCode::Malformed => libc::EPROTO,
            },
        }
    }
}

/// A thread's connection, and the process that made it: after `fork` the child
/// must not use its parent's, or they would read each other's answers.
struct PerThread {
    process: u32,
    client: Client,
}

impl PerThread {
    fn new(process: u32) -> Self {
        let path = std::env::var_os(SOCKET_VARIABLE);
        Self {
            process,
            client: Client::new(path.unwrap_or_else(|| DEFAULT_SOCKET.into())),
        }
    }
}

thread_local! {
    static CLIENT: RefCell<Option<PerThread>> = const { RefCell::new(None) };
}

/// Asks the daemon of this node to move the connection of `socket` to the
/// application at `dest` (the destination node's link address and application
/// port). `request` is every byte that was read from `socket`. Blocks until the
/// outcome is known.
///
/// On success, and on every error, the caller closes `socket` when it has no
/// further use for it; after success or [`FailCode::Unknown`] nothing else may
/// be done with it.
///
/// # Errors
/// On every error but [`FailCode::Unknown`] the socket and its unread data are
/// as they were, and the call may be repeated; [`FailCode::retry_elsewhere`]
/// tells whether with another destination.
pub fn request_handover(
    socket: &impl AsFd,
    dest: SocketAddr,
    request: &[u8],
) -> Result<Done, HandoverError> {
    let process = std::process::id();
    let ask = |per_thread: &mut PerThread| {
        per_thread
            .client
            .handover(socket.as_fd(), dest, request, TIMEOUT)
            .map_err(HandoverError)
    };
    CLIENT
        .try_with(|cell| {
            let mut slot = cell.borrow_mut();
            if slot.as_ref().is_none_or(|kept| kept.process != process) {
                *slot = None;
            }
            ask(slot.get_or_insert_with(|| PerThread::new(process)))
        })
        // The thread is ending and its connection is closed already.
        .unwrap_or_else(|_| ask(&mut PerThread::new(process)))
}
