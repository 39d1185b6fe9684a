//! The asking side: what a proxy or `libdts` uses.

use super::{
    Answer, CodecError, Done, FailCode, MAX_MESSAGE, Node, decode_answer, encode_nodes_request,
    encode_request, monotonic_ns,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long [`Client::connect`] waits for room in the daemon's backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why [`Client::handover`] or [`Client::nodes`] did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon could be asked; nothing happened to the connection.
    #[error("no daemon at {path}: {source}")]
    Unavailable {
        /// Socket that was tried.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The request does not fit a message; nothing was sent.
    #[error("request: {0}")]
    Request(CodecError),
    /// The descriptor could not be passed (it is closed, or too many are in
    /// flight); nothing was sent.
    #[error("socket cannot be passed to the daemon: {0}")]
    Descriptor(io::Error),
    /// The daemon answered that the handover failed.
    #[error("handover {code}: {reason}")]
    Failed {
        /// What to do about it.
        code: FailCode,
        /// For a log.
        reason: String,
    },
    /// The daemon took the request, and no answer that makes sense came: as
    /// [`FailCode::Unknown`], the request must not be repeated.
    #[error("no answer from the daemon: {0}")]
    Lost(io::Error),
}

impl ClientError {
    /// The daemon's code, or what a local failure amounts to; `None` when there
    /// is no daemon to say anything.
    #[must_use]
    pub fn code(&self) -> Option<FailCode> {
        match self {
            Self::Unavailable { .. } => None,
            Self::Request(_) | Self::Descriptor(_) => Some(FailCode::NotEligible),
            Self::Failed { code, .. } => Some(*code),
            Self::Lost(_) => Some(FailCode::Unknown),
        }
    }
}

/// A connection to the daemon; one question at a time.
///
/// It connects again by itself when the daemon was restarted since the last
/// call, which is safe because the kernel tells a request that no daemon read
/// (`EPIPE`, `ECONNRESET`) from one that was read and not answered (end of
/// file).
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    socket: Option<OwnedFd>,
    buffer: Vec<u8>,
}

/// How one attempt on one connection ended without an answer.
enum Broken {
    /// No daemon has read the request.
    Unread(io::Error),
    /// Final: told to the caller as it is.
    Final(ClientError),
}

impl Client {
    /// Connects to the daemon's socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let mut client = Self::new(path);
        client.socket = Some(client.open(CONNECT_TIMEOUT)?);
        Ok(client)
    }

    /// A client that connects at its first handover.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            socket: None,
            buffer: Vec::new(),
        }
    }

    /// Asks to move the connection of `socket` to `dest`. `request` is every
    /// byte that was read from the socket. Blocks until the answer or `timeout`.
    ///
    /// `timeout` should exceed the daemon's `unknown_deadline_ms`, because
    /// giving up earlier turns outcomes that it could tell into
    /// [`ClientError::Lost`].
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::code`] says what may be done next.
    pub fn handover(
        &mut self,
        socket: BorrowedFd<'_>,
        dest: SocketAddr,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Done, ClientError> {
        let message =
            encode_request(dest, monotonic_ns(), request).map_err(ClientError::Request)?;
        match self.ask(Some(socket), &message, timeout)? {
            Answer::Done(done) => Ok(done),
            Answer::Failed { code, reason } => Err(ClientError::Failed { code, reason }),
            Answer::Nodes(_) => Err(self.beside_the_point()),
        }
    }

    /// Asks what the daemon knows of the nodes. Blocks until the answer or `timeout`.
    ///
    /// # Errors
    /// See [`ClientError`]; whatever it is, the question may be asked again.
    pub fn nodes(&mut self, timeout: Duration) -> Result<Vec<Node>, ClientError> {
        let message = encode_nodes_request().map_err(ClientError::Request)?;
        match self.ask(None, &message, timeout)? {
            Answer::Nodes(nodes) => Ok(nodes),
            Answer::Failed { code, reason } => Err(ClientError::Failed { code, reason }),
            Answer::Done(_) => Err(self.beside_the_point()),
        }
    }

    /// An answer to another question: who says so is not to be listened to further.
    fn beside_the_point(&mut self) -> ClientError {
        self.socket = None;
        ClientError::Lost(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer to another question",
        ))
    }

    fn ask(
        &mut self,
        socket: Option<BorrowedFd<'_>>,
        message: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + timeout;
        if let Some(daemon) = self.socket.take() {
            match self.attempt(daemon, socket, message, deadline) {
                Ok(answer) => return Ok(answer),
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Unread(_)) => {}
            }
        }
        let daemon = self.open(deadline.saturating_duration_since(Instant::now()))?;
        match self.attempt(daemon, socket, message, deadline) {
            Ok(answer) => Ok(answer),
            Err(Broken::Final(error)) => Err(error),
            Err(Broken::Unread(source)) => Err(self.unavailable(source)),
        }
    }

    /// Sends and waits. The connection is kept only when it gave an answer: an
    /// answer that comes late must not be taken for the next request's.
    fn attempt(
        &mut self,
        daemon: OwnedFd,
        socket: Option<BorrowedFd<'_>>,
        message: &[u8],
        deadline: Instant,
    ) -> Result<Answer, Broken> {
        send(&daemon, socket, message, deadline)?;
        // One byte more than allowed, so that an oversize answer shows as one.
        self.buffer.resize(MAX_MESSAGE + 1, 0);
        let len = receive(&daemon, &mut self.buffer, deadline)?;
        let answer = decode_answer(&self.buffer[..len])
            .map_err(|error| lost(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        self.socket = Some(daemon);
        Ok(answer)
    }

    fn open(&self, timeout: Duration) -> Result<OwnedFd, ClientError> {
        let open = || {
            let address = SocketAddrUnix::new(&self.path)?;
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // The send timeout bounds connect too; 0 would mean to wait for ever.
            let timeout = timeout.max(Duration::from_millis(1));
            set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
            loop {
                match connect(&socket, &address) {
                    Err(Errno::INTR) => {}
                    result => break result.map(|()| socket),
                }
            }
        };
        open().map_err(|errno| self.unavailable(errno.into()))
    }

    fn unavailable(&self, source: io::Error) -> ClientError {
        ClientError::Unavailable {
            path: self.path.clone(),
            source,
        }
    }
}

fn lost(error: io::Error) -> Broken {
    Broken::Final(ClientError::Lost(error))
}

fn send(
    daemon: &OwnedFd,
    socket: Option<BorrowedFd<'_>>,
    message: &[u8],
    deadline: Instant,
) -> Result<(), Broken> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(socket) = &socket {
            let descriptors = std::slice::from_ref(socket);
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "space is sized for one descriptor");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(daemon, &[IoSlice::new(message)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // Nothing was sent, so a daemon that is too busy to read is the
            // same as none.
            Err(Errno::AGAIN) => match wait(daemon, PollFlags::OUT, deadline) {
                Ok(true) => {}
                Ok(false) => return Err(Broken::Unread(Errno::TIMEDOUT.into())),
                Err(errno) => return Err(Broken::Unread(errno.into())),
            },
            Err(errno @ (Errno::BADF | Errno::TOOMANYREFS | Errno::MFILE)) => {
                return Err(Broken::Final(ClientError::Descriptor(errno.into())));
            }
            Err(errno) => return Err(Broken::Unread(errno.into())),
        }
    }
}

fn receive(daemon: &OwnedFd, buffer: &mut [u8], deadline: Instant) -> Result<usize, Broken> {
    loop {
        match wait(daemon, PollFlags::IN, deadline) {
            Ok(true) => {}
            Ok(false) => return Err(lost(Errno::TIMEDOUT.into())),
            Err(errno) => return Err(lost(errno.into())),
        }
        match recv(daemon, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
            Ok((len, _)) => return Ok(len),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The peer's end was closed with our message still in its queue.
            Err(Errno::CONNRESET) => return Err(Broken::Unread(Errno::CONNRESET.into())),
            Err(errno) => return Err(lost(errno.into())),
        }
    }
}

/// Waits until `daemon` is ready (true) or `deadline` has passed (false).
fn wait(daemon: &OwnedFd, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut fds = [PollFd::from_borrowed_fd(daemon.as_fd(), events)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
