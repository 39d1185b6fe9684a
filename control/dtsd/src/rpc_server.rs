//! Serves proxies on the RPC socket: one thread per connection, because a proxy
//! waits for each answer and there is nothing to multiplex.

use crate::handover::Handovers;
use crate::metrics::RpcMetrics;
use crate::threads;
use dts_config::RpcAllow;
use dts_proto::rpc::{
    Answer, Connection, FailCode, Node, PeerCredentials, RecvError, Request, Server, monotonic_ns,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most proxies connected at once; a further one is hung up on.
pub const CONNECTIONS: usize = 1024;
/// Whoever connects may ask, and is then judged by credentials.
const MODE: u32 = 0o666;
/// How often a waiting acceptor looks whether it should stop, milliseconds.
const LOOK: u16 = 100;
/// How long somebody who may not ask is listened to.
const DENIED_PATIENCE: u16 = 1000;

/// Who knows the nodes.
pub type Directory = Arc<dyn Fn() -> Vec<Node> + Send + Sync>;

/// The running server; dropping it removes the socket's file.
pub struct RpcServer {
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    handovers: Arc<Handovers>,
    directory: Directory,
    allow: RpcAllow,
    metrics: Arc<RpcMetrics>,
    connected: AtomicUsize,
}

impl RpcServer {
    /// Listens at `path`.
    ///
    /// # Errors
    /// `AddrInUse` when another daemon listens there; else what the kernel says.
    pub fn bind(path: &Path) -> io::Result<Server> {
        Server::bind(path, MODE)
    }

    /// Serves what [`RpcServer::bind`] made.
    ///
    /// # Errors
    /// The process has no room for another thread.
    pub fn start(
        server: Server,
        allow: RpcAllow,
        handovers: Arc<Handovers>,
        directory: Directory,
        metrics: Arc<RpcMetrics>,
    ) -> io::Result<Self> {
        server.set_nonblocking(true)?;
        let connected = AtomicUsize::new(0);
        let shared = Arc::new(Shared {
            handovers,
            directory,
            allow,
            metrics,
            connected,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let accept = move || {
            while !stopped.load(Ordering::Relaxed) {
                if readable(&server, LOOK)
                    && let Ok(connection) = server.accept()
                {
                    admit(&shared, connection);
                }
            }
        };
        let acceptor = Some(threads::spawn("dts-rpc", accept)?);
        Ok(Self { stop, acceptor })
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // It panicked if this fails, and has said so.
            let _ = acceptor.join();
        }
    }
}

fn readable(fd: &impl AsFd, millis: u16) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(millis)), Ok(n) if n > 0)
}

fn admit(shared: &Arc<Shared>, connection: Connection) {
    if shared.connected.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
        shared.connected.fetch_sub(1, Ordering::Relaxed);
        shared.metrics.count("overload");
        return;
    }
    let own = Arc::clone(shared);
    let serve = move || {
        own.serve(connection);
        own.connected.fetch_sub(1, Ordering::Relaxed);
    };
    if threads::spawn("dts-rpc-conn", serve).is_err() {
        shared.connected.fetch_sub(1, Ordering::Relaxed);
        shared.metrics.count("overload");
    }
}

/// Whether the configuration lets this peer ask.
#[must_use]
pub fn allowed(allow: &RpcAllow, peer: PeerCredentials) -> bool {
    allow.uids.contains(&peer.uid) || allow.gids.contains(&peer.gid)
}

impl Shared {
    fn serve(&self, mut connection: Connection) {
        if !allowed(&self.allow, connection.peer()) {
            return self.deny(&mut connection);
        }
        loop {
            let answer = match connection.recv() {
                Ok((Request::Nodes, _)) => Answer::Nodes((self.directory)()),
                Ok((
                    Request::Handover {
                        dest,
                        sent_ns,
                        request,
                    },
                    socket,
                )) => {
                    let waited = Duration::from_nanos(monotonic_ns().saturating_sub(sent_ns));
                    let answer = self.handovers.run(dest, &request, socket);
                    if matches!(answer, Answer::Done(_)) {
                        self.handovers.count_rpc(waited);
                    }
                    answer
                }
                Err(error) if error.is_message_error() => Answer::Failed {
                    code: FailCode::Malformed,
                    reason: error.to_string(),
                },
                Err(RecvError::Io(error)) => {
                    tracing::debug!(%error, "RPC connection");
                    return;
                }
                Err(_) => return,
            };
            self.metrics.count(result_of(&answer));
            if connection.send(&answer).is_err() {
                return;
            }
        }
    }

    /// An answer that comes before its question would look like a lost
    /// connection to the proxy.
    fn deny(&self, connection: &mut Connection) {
        let peer = connection.peer();
        tracing::warn!(uid = peer.uid, gid = peer.gid, pid = peer.pid, "RPC denied");
        self.metrics.count("denied");
        if readable(connection, DENIED_PATIENCE) && connection.recv().is_ok() {
            let reason = format!(
                "uid {} and gid {} are not in control.rpc_allow",
                peer.uid, peer.gid
            );
            // The proxy may be gone; it is not owed more.
            let _ = connection.send(&Answer::Failed {
                code: FailCode::Denied,
                reason,
            });
        }
    }
}

/// The value of the `result` label of an answer.
fn result_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done(_) => "done",
        Answer::Nodes(_) => "nodes",
        Answer::Failed { code, .. } => match code {
            FailCode::Malformed => "malformed",
            FailCode::Denied => "denied",
            _ => "failed",
        },
    }
}

/// How long a stopping daemon waits for handovers under way.
#[must_use]
pub fn patience(deadline: Duration) -> Duration {
    deadline + Duration::from_secs(1)
}

#[cfg(test)]
#[path = "rpc_server_tests.rs"]
mod tests;
