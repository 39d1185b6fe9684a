//! What a proxy has to know of a TCP connection that it is about to hand over,
//! and how it lets go of one without a segment on the wire.
//!
//! Calls that `rustix` or `nix` wrap go through them; the rest is the `TCP_INFO`
//! option in its current length and the `SIOCOUTQ` request.

mod tcp_info;

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::RecvFlags;

pub use tcp_info::{Options, State, TcpInfo, tcp_info};

/// What waits in a TCP socket's receive queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The bytes in order, at most the limit that was given.
    pub bytes: Vec<u8>,
    /// True if the peer's FIN has arrived and no byte is behind `bytes`.
    pub eof: bool,
}

/// Reads the whole receive queue, at most `limit` bytes, and leaves it as it is.
/// It does not wait. Bytes that arrive during the call may be missing, but `eof`
/// is never true of a queue that holds more than `bytes`.
///
/// # Errors
/// The connection's pending error (which this call then consumes), as
/// `ECONNRESET`; `ENOTCONN`; or a descriptor that is not a stream socket.
pub fn peek_all(fd: impl AsFd, limit: usize) -> io::Result<Peek> {
    let fd = fd.as_fd();
    // The state comes first: once the FIN is there no byte can follow it, so the
    // length that is read next is final.
    let events = ready(fd)?;
    if events.contains(PollFlags::ERR) {
        rustix::net::sockopt::socket_error(fd)??;
    }
    let queued = inq(fd)?;
    // One byte at least, or an empty queue would hide ENOTCONN.
    let mut bytes = Vec::with_capacity(queued.min(limit).max(1));
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(fd, rustix::buffer::spare_capacity(&mut bytes), flags) {
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN) => {}
        Err(e) => return Err(e.into()),
    }
    bytes.truncate(limit);
    let eof = events.contains(PollFlags::RDHUP) && queued <= limit;
    Ok(Peek { bytes, eof })
}

/// Values of the `TCP_REPAIR` option (linux/tcp.h): on, and off without the
/// window probe that a live connection would send.
const TCP_REPAIR_ON: u32 = 1;
const TCP_REPAIR_OFF_NO_WP: u32 = -1i32 as u32;

fn ready(fd: impl AsFd) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN | PollFlags::RDHUP)];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )?;
    Ok(fds[0].revents())
}

/// Bytes in the receive queue, without the FIN (`SIOCINQ`).
///
/// # Errors
/// `EINVAL` on a listening socket; a descriptor that is not a socket.
pub fn inq(fd: impl AsFd) -> io::Result<usize> {
    let bytes = rustix::io::ioctl_fionread(fd)?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Bytes that were written and that the peer has not acknowledged, sent or not
/// (`SIOCOUTQ`).
///
/// # Errors
/// `EINVAL` on a listening socket; a descriptor that is not a socket.
pub fn outq(fd: impl AsFd) -> io::Result<usize> {
    // The request number is `TIOCOUTQ` under its other name.
    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;
    // SAFETY: this request writes one C integer.
    let bytes: libc::c_int = unsafe { ioctl(fd, Getter::<SIOCOUTQ, libc::c_int>::new()) }?;
    usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Ends a TCP connection with no segment on the wire, although other descriptors
/// of the socket may exist, in this process or in others: they see
/// `ECONNABORTED` once, then `ENOTCONN`. Unsent and unread data is gone, the address
/// pair is free. Closing the descriptors later sends nothing either.
///
/// What the peer sends afterwards meets no socket, and the kernel answers it by
/// a reset: whoever calls this keeps such segments away from the kernel. A
/// segment that arrives while the call runs may still be acknowledged.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` in the user namespace that owns the socket's
/// network namespace, or for a listening socket: nothing is changed then.
pub fn silent_close(fd: impl AsFd) -> io::Result<()> {
    // In repair mode the kernel's disconnect skips the reset that it would send
    // for a connection with unread data.
    setsockopt(&fd, sockopt::TcpRepair, &TCP_REPAIR_ON)?;
    let result = rustix::net::connect_unspec(&fd);
    // A socket left in that mode answers every read by EPERM, which would puzzle
    // the other holder.
    setsockopt(&fd, sockopt::TcpRepair, &TCP_REPAIR_OFF_NO_WP)?;
    Ok(result?)
}

/// Who made the other end of a connected Unix socket, as the kernel noted it
/// when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCred {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The credentials of the other end of a Unix socket.
///
/// # Errors
/// Not a connected Unix socket.
pub fn peer_cred(fd: impl AsFd) -> io::Result<PeerCred> {
    let cred = nix::sys::socket::getsockopt(&fd, sockopt::PeerCredentials)?;
    // The kernel reports 0 and "nobody" for anything else than a peer.
    if cred.pid() == 0 {
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(PeerCred {
        pid: cred.pid(),
        uid: cred.uid(),
        gid: cred.gid(),
    })
}
