//! A handover as the source's control thread conducts it: freeze, drain, splice,
//! bury (PROTOCOL section 4, steps 2 to 8).
//!
//! Limits of this version: a connection on which the proxy has sent anything is
//! not eligible, nor is one with urgent data.

use crate::drain::{Drained, Ineligible, drain};
use crate::history::{History, Outcome, Record, StepTimes};
use crate::metrics::HandoverMetrics;
use crate::plane::{Dispatcher, Plane, Waiter};
use arc_swap::ArcSwap;
use dts_core::command::{Command, Event, Fail, Steps};
use dts_core::key::Addr;
use dts_core::view::View;
use dts_proto::block::{self, Reason};
use dts_proto::rpc::{Answer, Done, FailCode, Replay};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most handovers under way at this node.
pub const CONCURRENT: usize = 1024;
/// A data plane that has not answered this long after its own deadline never
/// will.
const MARGIN: Duration = Duration::from_millis(500);

/// Times and sizes from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// By then the data plane knows the outcome, from the freeze on.
    pub deadline: Duration,
    /// Longest request, bytes.
    pub first_window: usize,
}

/// Conducts handovers; shared by all RPC connections.
pub struct Handovers {
    plane: Arc<dyn Plane>,
    dispatcher: Arc<Dispatcher>,
    view: Arc<ArcSwap<View>>,
    limits: Limits,
    metrics: Arc<HandoverMetrics>,
    /// The last ones.
    pub history: Arc<History>,
    active: AtomicUsize,
    stopping: AtomicBool,
    on_refusal: OnceLock<OnRefusal>,
}

/// Who is told of each refusal: the destination, and why.
pub type OnRefusal = Box<dyn Fn(SocketAddr, Reason) + Send + Sync>;

/// One of the handovers under way.
struct Slot<'a>(&'a AtomicUsize);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// How one ended, before it is told to anyone.
struct End {
    outcome: Outcome,
    code: Option<FailCode>,
    reason: String,
    node: u16,
    replay: Option<Replay>,
    /// The destination's word, where it refused.
    refusal: Option<Reason>,
}

impl End {
    fn failed(outcome: Outcome, code: FailCode, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            code: Some(code),
            reason: reason.into(),
            node: 0,
            replay: None,
            refusal: None,
        }
    }
}

/// What is learnt on the way.
#[derive(Default)]
struct Course {
    bytes: usize,
    steps: StepTimes,
}

impl Handovers {
    /// A conductor without any handover yet.
    #[must_use]
    pub fn new(
        plane: Arc<dyn Plane>,
        dispatcher: Arc<Dispatcher>,
        view: Arc<ArcSwap<View>>,
        limits: Limits,
        metrics: Arc<HandoverMetrics>,
    ) -> Self {
        Self {
            plane,
            dispatcher,
            view,
            limits,
            metrics,
            history: Arc::default(),
            active: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            on_refusal: OnceLock::new(),
        }
    }

    /// Tells `listener` of refusals from now on; the first one that asks for it.
    pub fn on_refusal(&self, listener: OnRefusal) {
        // A second one is not heard, as the documentation says.
        let _ = self.on_refusal.set(listener);
    }

    /// Moves the connection of `socket` to `dest`. Blocks until the outcome is
    /// known, and sees the handover through whoever has stopped listening.
    pub fn run(&self, dest: SocketAddr, passed: &[u8], socket: Option<OwnedFd>) -> Answer {
        let start = Instant::now();
        let socket = socket.map(TcpStream::from);
        let ends = socket
            .as_ref()
            .and_then(|s| Some((s.peer_addr().ok()?, s.local_addr().ok()?)));
        let (Some(socket), Some((client, local))) = (socket, ends) else {
            self.metrics.count(Outcome::NotEligible, None);
            return Answer::Failed {
                code: FailCode::NotEligible,
                reason: "no connected TCP socket came with the request".into(),
            };
        };
        let (client, local, dest) = (canonical(client), canonical(local), canonical(dest));
        let mut course = Course::default();
        let end = self.conduct(&socket, client, local, dest, passed, start, &mut course);
        self.record(start, client, local, dest, &course, &end);
        if let (Some(tell), Some(reason)) = (self.on_refusal.get(), end.refusal) {
            tell(dest, reason);
        }
        let micros = course
            .steps
            .accepted_us
            .unwrap_or_else(|| micros_since(start));
        match end.code {
            Some(code) => Answer::Failed {
                code,
                reason: end.reason,
            },
            None => {
                let replay = end.replay.unwrap_or(Replay::Unknown);
                Answer::Done(Done {
                    node: end.node,
                    replay,
                    micros,
                })
            }
        }
    }

    /// The request for a handover that was accepted had been on its way this long.
    pub fn count_rpc(&self, took: Duration) {
        self.metrics.count_rpc(took);
    }

    /// Accepts no more and waits, at most `patience`, for those under way.
    pub fn stop(&self, patience: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        while self.active.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn slot(&self) -> Option<Slot<'_>> {
        let slot = Slot(&self.active);
        let before = self.active.fetch_add(1, Ordering::SeqCst);
        (before < CONCURRENT && !self.stopping.load(Ordering::SeqCst)).then_some(slot)
    }

    #[allow(clippy::too_many_arguments)]
    fn conduct(
        &self,
        socket: &TcpStream,
        client: SocketAddr,
        local: SocketAddr,
        dest: SocketAddr,
        passed: &[u8],
        start: Instant,
        course: &mut Course,
    ) -> End {
        let Some(_slot) = self.slot() else {
            let reason = "too many handovers are under way, or the daemon is stopping";
            return End::failed(Outcome::Busy, FailCode::Busy, reason);
        };
        let worker = self.plane.worker_of(client);
        // Frozen, then Done or Failed; a freeze that expires meanwhile reports
        // one more failure.
        let waiter = self.dispatcher.open(4);
        let ticket = waiter.ticket;
        let asked = Instant::now();
        if self
            .plane
            .command(
                worker,
                Command::Freeze {
                    ticket,
                    client,
                    local,
                },
            )
            .is_err()
        {
            return End::failed(
                Outcome::Busy,
                FailCode::Busy,
                "the worker's command queue is full",
            );
        }
        let deadline = asked + self.limits.deadline + MARGIN;
        match waiter.next(deadline) {
            Some(Event::Frozen { .. }) => course.steps.frozen_us = Some(micros_since(start)),
            Some(Event::Failed { fail, .. }) => return failed(fail),
            Some(
                Event::Done { .. }
                | Event::Flows { .. }
                | Event::Found { .. }
                | Event::OnWire { .. },
            )
            | None => {
                self.unfreeze(worker, ticket, deadline);
                return End::failed(Outcome::Busy, FailCode::Busy, "the worker does not answer");
            }
        }
        let drained = match drain(socket, passed, self.limits.first_window) {
            Ok(drained) => drained,
            Err(error) => {
                self.unfreeze(worker, ticket, deadline);
                return ineligible(&error);
            }
        };
        course.steps.drained_us = Some(micros_since(start));
        course.bytes = drained.request.len();
        let Drained { request, eof } = drained;
        let mut splice = Command::Splice {
            ticket,
            dest,
            request,
            taken: 0,
            client_fin: eof,
        };
        while let Err(back) = self.plane.command(worker, splice) {
            if asked.elapsed() >= self.limits.deadline {
                self.unfreeze(worker, ticket, deadline);
                let reason = "the worker's command queue is full";
                return End::failed(Outcome::Busy, FailCode::Busy, reason);
            }
            splice = back;
            std::thread::sleep(Duration::from_micros(100));
        }
        let frozen = course.steps.frozen_us.unwrap_or_default();
        settle(socket, &waiter, deadline, frozen, &mut course.steps)
    }

    /// A freeze whose end cannot be queued ends by itself at its deadline.
    fn unfreeze(&self, worker: usize, ticket: u64, deadline: Instant) {
        let mut command = Command::Unfreeze { ticket };
        while let Err(back) = self.plane.command(worker, command) {
            if Instant::now() >= deadline {
                return;
            }
            command = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn record(
        &self,
        start: Instant,
        client: SocketAddr,
        local: SocketAddr,
        dest: SocketAddr,
        course: &Course,
        end: &End,
    ) {
        let view = self.view.load();
        let service = view.service_of_local(&local.ip().into(), local.port());
        let destination = view.member_at(&Addr::from(dest.ip())).map(|m| m.id);
        let took = start.elapsed();
        self.metrics.count(end.outcome, Some((took, &course.steps)));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if end.code.is_some() {
            tracing::info!(%client, %dest, outcome = end.outcome.name(), reason = end.reason, "handover failed");
        } else {
            tracing::debug!(%client, %dest, node = end.node, micros = took.as_micros() as u64, "handed over");
        }
        self.history.push(Record {
            time: now.saturating_sub(took).as_secs_f64(),
            client,
            service: service.map(|i| view.services[i].name.clone()),
            source: view.node,
            destination,
            outcome: end.outcome,
            replay: end.replay.map(replay_name),
            bytes: course.bytes,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            steps: course.steps,
            reason: end.reason.clone(),
        });
    }
}

/// Waits for the data plane's verdict on a splice, and buries the socket if the
/// flow is no longer this node's.
fn settle(
    socket: &TcpStream,
    waiter: &Waiter,
    deadline: Instant,
    frozen_us: u64,
    steps: &mut StepTimes,
) -> End {
    match waiter.next(deadline) {
        Some(Event::Done {
            node,
            replay,
            steps: spans,
            ..
        }) => {
            bury(socket);
            note(steps, frozen_us, spans);
            let replay = Some(match replay {
                Some(block::Replay::FastOpen) => Replay::FastOpen,
                Some(block::Replay::Handshake) => Replay::Handshake,
                Some(block::Replay::Paper) => Replay::Paper,
                None => Replay::Unknown,
            });
            let reason = String::new();
            End {
                outcome: Outcome::Accepted,
                code: None,
                reason,
                node,
                replay,
                refusal: None,
            }
        }
        Some(Event::Failed { fail, .. }) => {
            if fail == Fail::Unknown {
                bury(socket);
            }
            failed(fail)
        }
        Some(
            Event::Frozen { .. } | Event::Flows { .. } | Event::Found { .. } | Event::OnWire { .. },
        )
        | None => {
            bury(socket);
            let reason = "the data plane does not answer";
            End::failed(Outcome::Unknown, FailCode::Unknown, reason)
        }
    }
}

/// The data plane keeps everything that the socket would send from the wire, so
/// a kernel that refuses costs nothing but a socket that lives until its owner
/// closes it.
fn bury(socket: &TcpStream) {
    if let Err(error) = hostsock::silent_close(socket) {
        tracing::warn!(%error, "a handed over socket cannot be closed silently");
    }
}

/// The data plane counts from the freeze, everybody else from the request.
fn note(steps: &mut StepTimes, frozen_us: u64, spans: Steps) {
    let at = |span: dts_core::time::Span| Some(frozen_us + span.as_micros());
    steps.spliced_us = at(spans.spliced);
    steps.accepted_us = at(spans.accepted);
    steps.buried_us = at(spans.buried);
}

/// The word for a replay in listings.
#[must_use]
pub const fn replay_name(replay: Replay) -> &'static str {
    match replay {
        Replay::FastOpen => "fast-open",
        Replay::Handshake => "handshake",
        Replay::Paper => "paper",
        Replay::Unknown => "unknown",
    }
}

fn ineligible(error: &Ineligible) -> End {
    End::failed(
        Outcome::NotEligible,
        FailCode::NotEligible,
        error.to_string(),
    )
}

fn failed(fail: Fail) -> End {
    let (outcome, code, reason) = verdict(fail);
    End {
        refusal: match fail {
            Fail::Refused(reason) => Some(reason),
            _ => None,
        },
        ..End::failed(outcome, code, reason)
    }
}

/// What a failure of the data plane means to a proxy.
#[must_use]
pub fn verdict(fail: Fail) -> (Outcome, FailCode, &'static str) {
    use Outcome as O;
    match fail {
        Fail::NoFlow => (
            O::NotEligible,
            FailCode::NotEligible,
            "the data plane has no such connection",
        ),
        Fail::Busy => (
            O::Busy,
            FailCode::Busy,
            "the connection is in a handover already, or a table is full",
        ),
        Fail::BadDestination => (
            O::Unreachable,
            FailCode::Unreachable,
            "the destination is no member's application port",
        ),
        Fail::Unreachable => (
            O::Unreachable,
            FailCode::Unreachable,
            "the destination is not there, or takes nothing new",
        ),
        Fail::TooLarge => (
            O::NotEligible,
            FailCode::NotEligible,
            "the request is too large",
        ),
        Fail::Unaccounted => (
            O::NotEligible,
            FailCode::NotEligible,
            "the client was acknowledged more than was drained",
        ),
        Fail::PaperForm => (
            O::NotEligible,
            FailCode::NotEligible,
            "the destination's paper form cannot carry this connection",
        ),
        Fail::Refused(reason) => (O::Refused, FailCode::Refused, reason.text()),
        Fail::Aborted => (
            O::Aborted,
            FailCode::Aborted,
            "no answer in time; the destination did nothing",
        ),
        Fail::Unknown => (
            O::Unknown,
            FailCode::Unknown,
            "no answer; the client will be reset",
        ),
    }
}

/// IPv4 as IPv4, also where the proxy listens on an IPv6 socket.
fn canonical(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}

fn micros_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
