//! Asking the daemon: connections to it, and who is asked next when it says no.

use dts_proto::rpc::{Client, ClientError, Done, FailCode};
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

    /// Asks to move the connection of `socket` to the first of `candidates`
    /// that takes it. `request` is every byte read from it. Blocks.
    ///
    /// # Errors
    /// When none took it, or the last answer forbids to ask another one.
    pub fn handover(
        &self,
        socket: BorrowedFd<'_>,
        candidates: &[SocketAddr],
        request: &[u8],
    ) -> Result<(SocketAddr, Done), Failed> {
        let mut client = self.take();
        let mut busy_until = None;
        let mut tried = 0;
        let result = loop {
            let dest = candidates[tried];
            match client.handover(socket, dest, request, TIMEOUT) {
                Ok(done) => break Ok((dest, done)),
                Err(error) => {
                    let now = Instant::now();
                    let code = error.code();
                    if code == Some(FailCode::Busy)
                        && now < *busy_until.get_or_insert(now + BUSY_FOR)
                    {
                        thread::sleep(BUSY_PAUSE);
                        continue;
                    }
                    tried += 1;
                    let again = code.is_some_and(FailCode::retry_elsewhere);
                    if !again || tried == candidates.len() {
                        break Err(Failed { tried, error });
                    }
                    tracing::debug!(%dest, %error, "next destination");
                }
            }
        };
        self.give_back(client);
        result
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
