//! What nodes tell each other of their applications' health and load, one UDP datagram
//! over the link, several times a second.
//!
//! ```text
//! 0  magic "DTSR" | version 1 | key id | node id              8 bytes
//! 8  incarnation                                              8
//! 16 counter                                                  8
//! 24 for each application port: port | flags | connections    8 each
//! .. authenticator (SipHash-2-4-128) over all bytes before    16
//! ```
//!
//! All numbers are big-endian. Flag 1 is "healthy", the others are 0.

use crate::board::{Board, Said};
use crate::life::{self, dump};
use crate::metrics::ReportMetrics;
use crate::threads;
use arc_swap::ArcSwap;
use dts_core::key::Addr;
use dts_core::view::View;
use dts_proto::block::LinkKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Values of the `result` label of `dts_peer_reports_total`.
pub const RESULTS: [&str; 5] = ["accepted", "malformed", "forged", "replayed", "stranger"];
/// Most application ports of a report; further ones are not told of.
pub const PORTS: usize = 128;
const MAGIC: [u8; 4] = *b"DTSR";
const VERSION: u8 = 1;
const TAG: usize = 16;
/// Longest report, bytes.
pub const LEN_MAX: usize = size_of::<Head>() + PORTS * size_of::<Entry>() + TAG;
/// Keeps these authenticators apart from those of blocks and hellos.
const CONTEXT: &[u8] = b"report v1";
const HEALTHY: u16 = 1;
/// Longest sleep of the thread, so that it sees the stop.
const NAP: Duration = Duration::from_millis(100);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    version: u8,
    key_id: u8,
    node: U16,
    incarnation: U64,
    counter: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    port: U16,
    flags: U16,
    connections: U32,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its id.
    pub node: u16,
    /// Its start, microseconds since the epoch.
    pub incarnation: u64,
    /// Increases with every report of an incarnation.
    pub counter: u64,
    /// Its application ports, at most [`PORTS`].
    pub said: Vec<Said>,
}

/// Why a datagram is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Another length, magic or version, a node id or port of 0, or a flag of which
    /// nothing is known.
    #[error("malformed report")]
    Malformed,
    /// The authenticator is not of any valid key.
    #[error("the report is not authentic")]
    Forged,
}

impl Report {
    /// The datagram.
    #[must_use]
    pub fn encode(&self, key: &LinkKey) -> Vec<u8> {
        let head = Head {
            magic: MAGIC,
            version: VERSION,
            key_id: key.id,
            node: self.node.into(),
            incarnation: self.incarnation.into(),
            counter: self.counter.into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        for said in self.said.iter().take(PORTS) {
            let entry = Entry {
                port: said.port.into(),
                flags: (if said.healthy { HEALTHY } else { 0 }).into(),
                connections: said.connections.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        let tag = key.tag(CONTEXT, &bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    /// Reads a datagram that one of `keys` authenticates.
    ///
    /// # Errors
    /// See [`ReportError`].
    pub fn decode(bytes: &[u8], keys: &[LinkKey]) -> Result<Self, ReportError> {
        let malformed = ReportError::Malformed;
        let at = bytes.len().checked_sub(TAG).ok_or(malformed)?;
        let (body, tag) = bytes.split_at(at);
        let (head, entries) = Head::ref_from_prefix(body).map_err(|_| malformed)?;
        let entries = <[Entry]>::ref_from_bytes(entries).map_err(|_| malformed)?;
        if head.magic != MAGIC
            || head.version != VERSION
            || head.node.get() == 0
            || entries.len() > PORTS
        {
            return Err(malformed);
        }
        // Two keys may have one number.
        let mut named = keys.iter().filter(|k| k.id == head.key_id);
        if !named.any(|k| k.is_tag(tag, CONTEXT, body)) {
            return Err(ReportError::Forged);
        }
        if entries
            .iter()
            .any(|e| e.port.get() == 0 || e.flags.get() > HEALTHY)
        {
            return Err(malformed);
        }
        let said = entries.iter().map(|e| Said {
            port: e.port.get(),
            healthy: e.flags.get() == HEALTHY,
            connections: e.connections.get(),
        });
        Ok(Self {
            node: head.node.get(),
            incarnation: head.incarnation.get(),
            counter: head.counter.get(),
            said: said.collect(),
        })
    }
}

/// Connections of clients that the applications of this node have, by application port.
///
/// # Errors
/// What the kernel says.
pub fn connections(view: &View) -> io::Result<BTreeMap<u16, u32>> {
    let ports: BTreeSet<u16> = view.services.iter().map(|s| s.app_port).collect();
    let mut counts = BTreeMap::new();
    for port in ports {
        let mut count = 0;
        for family in life::FAMILIES {
            dump(family, life::TALKING, Some(port), |local, remote| {
                // From a VIP come this node's own checks alone.
                let ours = view.is_vip(&local.ip().into());
                count += u32::from(ours && !view.is_vip(&remote.ip().into()));
            })?;
        }
        counts.insert(port, count);
    }
    Ok(counts)
}

/// Who has reported what last, apart from socket and clock.
#[derive(Debug, Default)]
struct Heard(HashMap<u16, (u64, u64)>);

impl Heard {
    /// Judges a datagram from `from`: what it says, or its label.
    fn hear(&mut self, bytes: &[u8], from: Addr, view: &View) -> Result<Report, &'static str> {
        let report = Report::decode(bytes, &view.keys).map_err(|error| match error {
            ReportError::Malformed => "malformed",
            ReportError::Forged => "forged",
        })?;
        let member = view.member(report.node).filter(|m| m.link == from);
        if member.is_none() || report.node == view.node {
            return Err("stranger");
        }
        let new = (report.incarnation, report.counter);
        if self.0.get(&report.node).is_some_and(|last| new <= *last) {
            return Err("replayed");
        }
        self.0.insert(report.node, new);
        Ok(report)
    }
}

/// The running thread; dropping it stops it.
pub struct Reports {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Reporter {
    socket: UdpSocket,
    views: Arc<ArcSwap<View>>,
    board: Arc<Board>,
    metrics: Arc<ReportMetrics>,
    heard: Heard,
    interval: Duration,
    port: u16,
    counter: u64,
    failing: bool,
}

impl Reports {
    /// Starts to count, to tell and to hear.
    ///
    /// # Errors
    /// The address is not there or the port is taken; or no room for a thread.
    pub fn start(
        config: &dts_config::Reports,
        views: Arc<ArcSwap<View>>,
        board: Arc<Board>,
        metrics: Arc<ReportMetrics>,
    ) -> io::Result<Self> {
        let link = views.load().link.ip();
        let reporter = Reporter {
            socket: UdpSocket::bind(SocketAddr::new(link, config.port))?,
            views,
            board,
            metrics,
            heard: Heard::default(),
            interval: config.interval,
            port: config.port,
            counter: 0,
            failing: false,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || reporter.run(&stopped);
        let thread = Some(threads::spawn("dts-reports", run)?);
        Ok(Self { stop, thread })
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

impl Reporter {
    fn run(mut self, stop: &AtomicBool) {
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next {
                self.tell();
                // A thread that was held up does not catch up by a burst.
                next = now + self.interval;
            }
            let wait = next.saturating_duration_since(now).min(NAP);
            self.listen(wait.max(Duration::from_micros(100)));
        }
    }

    fn tell(&mut self) {
        let view = self.views.load_full();
        let counted = match connections(&view) {
            Ok(counted) => {
                self.failing = false;
                counted
            }
            Err(error) => {
                // A kernel without inet_diag says so every time.
                if !self.failing {
                    tracing::warn!(%error, "cannot count connections");
                }
                self.failing = true;
                BTreeMap::new()
            }
        };
        let said = self.board.own(&counted);
        self.metrics.show(&said);
        self.board.note(view.node, said.clone(), Instant::now());
        let Some(key) = view.keys.first() else { return };
        self.counter += 1;
        let report = Report {
            node: view.node,
            incarnation: view.incarnation,
            counter: self.counter,
            said,
        };
        let bytes = report.encode(key);
        for member in view.members.iter().filter(|m| m.id != view.node) {
            // One that cannot be sent is one that was lost: the next one follows.
            let _ = self.socket.send_to(&bytes, (member.link.ip(), self.port));
        }
    }

    fn listen(&mut self, wait: Duration) {
        // One byte more than a report has, so that a longer one shows as such.
        let mut bytes = [0; LEN_MAX + 1];
        if self.socket.set_read_timeout(Some(wait)).is_err() {
            std::thread::sleep(wait);
        }
        let Ok((len, from)) = self.socket.recv_from(&mut bytes) else {
            return;
        };
        let view = self.views.load();
        match self.heard.hear(&bytes[..len], from.ip().into(), &view) {
            Ok(report) => {
                self.metrics.count("accepted");
                self.board.note(report.node, report.said, Instant::now());
            }
            Err(why) => self.metrics.count(why),
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
