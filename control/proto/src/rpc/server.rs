//! The answering side: what the daemon uses.

use super::{Answer, CodecError, MAX_MESSAGE, Request, decode_request, encode_answer};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{Mode, chmod, rename, unlink};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, send,
    socket_with,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Clients that may wait for [`Server::accept`].
const BACKLOG: i32 = 1024;

/// A listening RPC socket. Dropping it removes the socket's file, unless
/// another process has put its own there meanwhile.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file at `path` that is ours.
    identity: (u64, u64),
}

impl Server {
    /// Listens at `path` with file permissions `mode` (like `0o660`).
    ///
    /// The file appears at `path` only when it has its mode and is listening,
    /// and replaces the one that a dead daemon left.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when another process listens there, or when
    /// `path` is there and no socket; else what the kernel says.
    pub fn bind(path: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        let path = path.as_ref();
        refuse_if_taken(path)?;
        let mut staging = path.as_os_str().to_owned();
        staging.push(format!(".{}", std::process::id()));
        let staging = PathBuf::from(staging);

        let socket = seqpacket(SocketFlags::CLOEXEC)?;
        match unlink(&staging) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        bind(&socket, &SocketAddrUnix::new(&staging)?)?;
        let publish = || -> io::Result<(u64, u64)> {
            chmod(&staging, Mode::from_raw_mode(mode))?;
            listen(&socket, BACKLOG)?;
            let meta = std::fs::symlink_metadata(&staging)?;
            rename(&staging, path)?;
            Ok((meta.dev(), meta.ino()))
        };
        match publish() {
            Ok(identity) => Ok(Self {
                socket,
                path: path.to_owned(),
                identity,
            }),
            Err(error) => {
                // The first error is the one to report.
                let _ = unlink(&staging);
                Err(error)
            }
        }
    }

    /// Takes the next client; blocks unless [`Server::set_nonblocking`] was
    /// called.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none and the socket does not
    /// block; else what the kernel says.
    pub fn accept(&self) -> io::Result<Connection> {
        let socket = loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok(Connection {
            socket,
            peer: PeerCredentials {
                uid: credentials.uid(),
                gid: credentials.gid(),
                pid: credentials.pid(),
            },
            buffer: Vec::new(),
        })
    }

    /// Chooses whether [`Server::accept`] blocks. Accepted connections block
    /// until told otherwise themselves.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(ioctl_fionbio(&self.socket, nonblocking)?)
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours {
            // A destructor has nobody to tell.
            let _ = unlink(&self.path);
        }
    }
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn refuse_if_taken(path: &Path) -> io::Result<()> {
    let probe = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::NOENT) => Ok(()),
        // A socket without a listener, or no socket at all.
        Err(Errno::CONNREFUSED) if is_socket(path) => Ok(()),
        // AGAIN is a listener with a full backlog, PROTOTYPE one of another type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE | Errno::CONNREFUSED) => {
            Err(Errno::ADDRINUSE.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Who is at the other end, as the kernel knew it at `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id; 0 when the peer lives in a pid namespace that is not visible
    /// from here.
    pub pid: i32,
}

/// Why [`Connection::recv`] gave no request.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The client has closed its end (or sent an empty message, which cannot be
    /// told from that). Drop the connection.
    #[error("closed by the client")]
    Closed,
    /// Nothing to read now, on a connection that does not block.
    #[error("nothing to read")]
    WouldBlock,
    /// A message that is no request. The next message can still be read.
    #[error(transparent)]
    Malformed(#[from] CodecError),
    /// More than one descriptor came along; all of them are closed. The next
    /// message can still be read.
    #[error("more than one descriptor came with the request")]
    Descriptors,
    /// The kernel reports an error. Drop the connection.
    #[error(transparent)]
    Io(io::Error),
}

impl RecvError {
    /// Whether this connection is worth another [`Connection::recv`]; the client
    /// is then owed an answer for a message that was bad.
    #[must_use]
    pub fn is_message_error(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Descriptors)
    }
}

/// One client of a [`Server`].
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: PeerCredentials,
    buffer: Vec<u8>,
}

impl Connection {
    /// The client's credentials.
    #[must_use]
    pub fn peer(&self) -> PeerCredentials {
        self.peer
    }

    /// Receives the next request and the descriptor that came with it (close on
    /// exec). The descriptor's kind is for the caller to check.
    ///
    /// # Errors
    /// See [`RecvError`]. Descriptors of a message that is refused are closed.
    pub fn recv(&mut self) -> Result<(Request, Option<OwnedFd>), RecvError> {
        // One byte more than allowed, so that an oversize message shows as one.
        self.buffer.resize(MAX_MESSAGE + 1, 0);
        // Room for two tells "more than one" from "one"; what does not fit is
        // closed by the kernel.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            let mut iov = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(&self.socket, &mut iov, &mut control, flags) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(RecvError::WouldBlock),
                Err(Errno::CONNRESET) => return Err(RecvError::Closed),
                Err(errno) => return Err(RecvError::Io(errno.into())),
            }
        };
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        if message.bytes == 0 {
            return Err(RecvError::Closed);
        }
        if descriptors.len() > 1 || message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(RecvError::Descriptors);
        }
        let request = decode_request(&self.buffer[..message.bytes])?;
        Ok((request, descriptors.pop()))
    }

    /// Answers the last request. Never blocks: a client has room for one answer
    /// if it reads what it is told.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the client does not read,
    /// [`io::ErrorKind::BrokenPipe`] when it is gone; drop the connection.
    pub fn send(&self, answer: &Answer) -> io::Result<()> {
        let bytes = encode_answer(answer).map_err(io::Error::other)?;
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, &bytes, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Chooses whether [`Connection::recv`] blocks.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(ioctl_fionbio(&self.socket, nonblocking)?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
