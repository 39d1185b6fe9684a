//! Asking the daemon: connections to it, who is asked next when it says no, and what it
//! knows of the nodes.

use crate::gate::{NoMember, Place};
use dts_proto::rpc::{Client, ClientError, Done, FailCode, Node};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// How long one request waits for its answer; above the daemon's longest
/// `unknown_deadline_ms`.
const TIMEOUT: Duration = Duration::from_secs(75);

/// A daemon at its limit is asked again this often ...
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// ... and for this long in all.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// How long the question about nodes waits for its answer.
const NODES_TIMEOUT: Duration = Duration::from_secs(1);

/// Idle connections to the daemon. As many are open as there are handovers at
/// once, which the caller bounds.
#[derive(Debug)]
pub struct Daemon {
    path: PathBuf,
    idle: Mutex<Vec<Client>>,
}

/// A handover that did not come about.
#[derive(Debug)]
pub struct Failed {
    /// Destinations that were asked for.
    pub tried: usize,
    /// What the last one ended with.
    pub error: ClientError,
}

impl Daemon {
    /// Connects when it is first needed.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::default(),
        }
    }

    /// Asks to move the connection of `socket` to the member of `place`, and as long as
    /// one does not take it, to the next one by `next`, which is given those that were
    /// asked. `request` is every byte read from the socket. Blocks.
    ///
    /// # Errors
    /// When none took it, or the last answer forbids to ask another one.
    pub fn handover(
        &self,
        socket: BorrowedFd<'_>,
        place: Place,
        mut next: impl FnMut(&[SocketAddr]) -> Result<Place, NoMember>,
        request: &[u8],
    ) -> Result<(SocketAddr, Done), Failed> {
        let mut client = self.take();
        let mut busy_until = None;
        let mut tried = Vec::new();
        let mut place = place;
        let result = loop {
            let dest = place.to;
            match client.handover(socket, dest, request, TIMEOUT) {
                Ok(done) => {
                    place.moved();
                    break Ok((dest, done));
                }
                Err(error) => {
                    let now = Instant::now();
                    let code = error.code();
                    if code == Some(FailCode::Busy)
                        && now < *busy_until.get_or_insert(now + BUSY_FOR)
                    {
                        thread::sleep(BUSY_PAUSE);
                        continue;
                    }
                    tried.push(dest);
                    let failed = |error| Failed {
                        tried: tried.len(),
                        error,
                    };
                    if !code.is_some_and(FailCode::retry_elsewhere) {
                        break Err(failed(error));
                    }
                    drop(place);
                    place = match next(&tried) {
                        Ok(place) => place,
                        Err(_) => break Err(failed(error)),
                    };
                    tracing::debug!(%dest, %error, "next destination");
                }
            }
        };
        self.give_back(client);
        result
    }

    /// What the daemon knows of the nodes. Blocks, a second at most.
    ///
    /// # Errors
    /// There is no daemon, or an old one that does not know the question.
    pub fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        let mut client = self.take();
        let nodes = client.nodes(NODES_TIMEOUT);
        self.give_back(client);
        nodes
    }

    fn take(&self) -> Client {
        let idle = self.idle.lock().map(|mut idle| idle.pop());
        idle.ok()
            .flatten()
            .unwrap_or_else(|| Client::new(&self.path))
    }

    fn give_back(&self, client: Client) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(client);
        }
    }
}
