//! Who of the members is there: hellos over the link, heard and said.

use crate::hello::{Hello, HelloError, LEN};
use crate::metrics::PeerMetrics;
use crate::threads;
use arc_swap::ArcSwap;
use dts_core::key::Addr;
use dts_core::view::{Member, View};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Values of the `result` label of `dts_peer_hello_total`.
pub const RESULTS: [&str; 5] = ["accepted", "malformed", "forged", "replayed", "stranger"];
/// A member whose flows count as orphans has been silent for this many times
/// `dead_after`.
const GONE: u32 = 3;
/// Longest sleep of the thread, so that it sees the stop.
const NAP: Duration = Duration::from_millis(100);

/// When members were last heard.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<u16, Instant>>);

impl Heard {
    /// How long the member has been silent; `None` if it never spoke.
    #[must_use]
    pub fn silence(&self, node: u16) -> Option<Duration> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&node).map(Instant::elapsed)
    }

    fn note(&self, node: u16, now: Instant) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, now);
    }
}

/// What the thread remembers of one member.
#[derive(Clone, Copy, Debug)]
struct Memory {
    incarnation: u64,
    counter: u64,
    last: Instant,
}

/// The rules, apart from socket and clock.
#[derive(Debug, Default)]
struct Table {
    heard: HashMap<u16, Memory>,
    dead_after: Duration,
}

/// What a hello changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heed {
    /// Nothing: its label.
    Ignored(&'static str),
    /// The member lives on as known.
    Known,
    /// The member is new here, was restarted or has another address.
    New,
}

impl Table {
    /// Takes a datagram from `from` into account; `members` is changed along.
    fn hear(
        &mut self,
        bytes: &[u8],
        from: Addr,
        view: &View,
        members: &mut [Member],
        now: Instant,
    ) -> Heed {
        let hello = match Hello::decode(bytes, &view.keys) {
            Ok(hello) => hello,
            Err(HelloError::Malformed) => return Heed::Ignored("malformed"),
            Err(HelloError::Forged) => return Heed::Ignored("forged"),
        };
        let stranger = Heed::Ignored("stranger");
        let Some(member) = members.iter_mut().find(|m| m.id == hello.node) else {
            return stranger;
        };
        if member.id == view.node || member.link != from {
            return stranger;
        }
        let new = (hello.incarnation, hello.counter);
        if self
            .heard
            .get(&member.id)
            .is_some_and(|m| new <= (m.incarnation, m.counter))
        {
            return Heed::Ignored("replayed");
        }
        let memory = Memory {
            incarnation: hello.incarnation,
            counter: hello.counter,
            last: now,
        };
        self.heard.insert(member.id, memory);
        let known = Some((hello.link_mac, hello.incarnation));
        let heed = if member.known == known {
            Heed::Known
        } else {
            Heed::New
        };
        member.known = known;
        member.alive = true;
        member.gone = false;
        heed
    }

    /// Lets members die of silence.
    fn age(&self, own: u16, members: &mut [Member], now: Instant) {
        for member in members.iter_mut().filter(|m| m.id != own) {
            if let Some(memory) = self.heard.get(&member.id) {
                let silence = now.saturating_duration_since(memory.last);
                member.alive = silence < self.dead_after;
                member.gone = silence >= self.dead_after * GONE;
            }
        }
    }
}

/// The running thread; dropping it stops it.
pub struct Peers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Speaker {
    socket: UdpSocket,
    views: Arc<ArcSwap<View>>,
    heard: Arc<Heard>,
    metrics: Arc<PeerMetrics>,
    table: Table,
    interval: Duration,
    port: u16,
    counter: u64,
}

impl Peers {
    /// Starts to speak and to hear. This thread is the only one that publishes
    /// views from now on.
    ///
    /// # Errors
    /// The address is not there or the port is taken; or no room for a thread.
    pub fn start(
        config: &dts_config::Peers,
        views: Arc<ArcSwap<View>>,
        heard: Arc<Heard>,
        metrics: Arc<PeerMetrics>,
    ) -> io::Result<Self> {
        let link = views.load().link.ip();
        let socket = UdpSocket::bind(SocketAddr::new(link, config.port))?;
        let table = Table {
            heard: HashMap::new(),
            dead_after: config.dead_after,
        };
        let (interval, port) = (config.interval, config.port);
        let speaker = Speaker {
            socket,
            views,
            heard,
            metrics,
            table,
            interval,
            port,
            counter: 0,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = Some(threads::spawn("dts-peers", move || speaker.run(&stopped))?);
        Ok(Self { stop, thread })
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

impl Speaker {
    fn run(mut self, stop: &AtomicBool) {
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next {
                self.greet_all();
                // A thread that was held up does not catch up by a burst.
                next = now + self.interval;
            }
            let wait = next
                .saturating_duration_since(now)
                .min(NAP)
                .max(Duration::from_micros(100));
            self.listen(wait);
        }
    }

    fn listen(&mut self, wait: Duration) {
        let view = self.views.load_full();
        let mut members = view.members.clone();
        // One byte more than a hello has, so that a longer one shows as such.
        let mut bytes = [0; LEN + 1];
        if self.socket.set_read_timeout(Some(wait)).is_err() {
            std::thread::sleep(wait);
        }
        let received = self.socket.recv_from(&mut bytes);
        let now = Instant::now();
        if let Ok((len, from)) = received {
            let source = from.ip().into();
            match self
                .table
                .hear(&bytes[..len], source, &view, &mut members, now)
            {
                Heed::Ignored(why) => self.metrics.count(why),
                heed => {
                    self.metrics.count("accepted");
                    if let Some(m) = members.iter().find(|m| m.link == source) {
                        self.heard.note(m.id, now);
                    }
                    if heed == Heed::New {
                        self.greet(from.ip().into());
                    }
                }
            }
        }
        self.table.age(view.node, &mut members, now);
        if members != view.members {
            for m in members.iter().filter(|m| !view.members.contains(m)) {
                let state = crate::fleet_metrics::peer_state(m);
                tracing::info!(node = m.id, state, "member");
            }
            self.views.store(Arc::new(View {
                members,
                ..View::clone(&view)
            }));
        }
    }

    fn greet_all(&mut self) {
        let view = self.views.load_full();
        for m in view.members.iter().filter(|m| m.id != view.node) {
            self.greet(m.link);
        }
    }

    /// A hello that cannot be sent is one that was lost: the next one follows.
    fn greet(&mut self, to: Addr) {
        self.counter += 1;
        let view = self.views.load();
        let Some(key) = view.keys.first() else { return };
        let hello = Hello {
            node: view.node,
            incarnation: view.incarnation,
            link_mac: view.link_mac,
            counter: self.counter,
        };
        let _ = self
            .socket
            .send_to(&hello.encode(key), (to.ip(), self.port));
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
