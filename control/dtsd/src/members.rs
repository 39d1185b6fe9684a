//! The membership protocol's thread: its socket, its clock, and who wants something of it.
//!
//! It runs ahead of everything that is not real-time itself, because a late answer looks
//! like a dead node. What takes long, as new bucket tables do, is done by [`crate::publish`].

use crate::metrics::MemberMetrics;
use crate::publish::Publisher;
use crate::threads;
use crossbeam_channel::{Receiver, Sender, unbounded};
use dts_membership::{
    Agreed, Asked, Liveness, Membership, Outcome, Schedule, Seen, Time, Wish, WishError,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a node that is asked for something may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that are taken before the clock is looked at again.
const BATCH: usize = 64;
/// What the last messages may take from the socket to the link.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Longest sleep, so that times in the listing are fresh.
const NAP: Duration = Duration::from_secs(1);

/// Every member as seen from here, at a moment.
#[derive(Clone, Debug)]
pub struct Roster {
    /// By id, this node included.
    pub members: Vec<Seen>,
    /// Who is there, and what follows.
    pub agreed: Agreed,
    /// How much of its weight each member gets of scheduled services.
    pub schedule: Schedule,
    /// A later start of this node, of which others know; see [`Membership::superseded`].
    pub superseded: Option<u64>,
    /// When it was.
    pub now: Time,
}

impl Roster {
    /// A member, if it is one.
    #[must_use]
    pub fn seen(&self, node: u16) -> Option<&Seen> {
        self.members.iter().find(|m| m.peer.node == node)
    }

    /// The epoch by which `node` works, as far as is known; 0 where it is not.
    #[must_use]
    pub fn epoch_of(&self, node: u16) -> u64 {
        let record = self.seen(node).and_then(|m| m.record);
        record.map_or(0, |r| r.epoch)
    }
}

/// Who waits for the outcome of a wish or a question.
type Reply = oneshot::Sender<Result<Vec<u8>, WishError>>;

enum Request {
    Look(oneshot::Sender<Roster>),
    Wish {
        node: u16,
        wish: Wish,
        reply: Reply,
    },
    Ask {
        node: u16,
        question: Vec<u8>,
        reply: Reply,
    },
    Answer {
        asked: Asked,
        answer: Vec<u8>,
    },
    Load {
        connections: u32,
        drained: bool,
    },
    Health {
        service: usize,
        well: bool,
    },
    OnWire(Option<Vec<u16>>),
    Leave,
    /// To stand still until the other end is gone.
    #[cfg(test)]
    Stop(std::sync::mpsc::Receiver<()>),
}

/// A way to ask the thread; every clone leads to the same one.
#[derive(Clone)]
pub struct Handle {
    requests: Sender<Request>,
    bell: Arc<UnixStream>,
}

/// The running thread; dropping this says goodbye to the other members and ends it.
pub struct Members {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

struct Speaker {
    core: Membership,
    start: Instant,
    socket: UdpSocket,
    port: u16,
    bell: UnixStream,
    requests: Receiver<Request>,
    metrics: Arc<MemberMetrics>,
    publisher: Publisher,
    joined: bool,
    /// Every member's as of the last look, by id.
    liveness: HashMap<u16, Liveness>,
    ticket: u64,
    waiting: HashMap<u64, Reply>,
    /// Who answers questions of other members.
    mail: Sender<Asked>,
}

impl Handle {
    fn tell(&self, request: Request) {
        // Nobody is there any more: what waits for an answer hears of that by itself.
        let _ = self.requests.send(request);
        // Full: it has been rung already.
        let _ = (&*self.bell).write(&[0]);
    }

    /// Every member as seen from here; `None` when the thread has ended.
    pub async fn look(&self) -> Option<Roster> {
        let (reply, answer) = oneshot::channel();
        self.tell(Request::Look(reply));
        answer.await.ok()
    }

    /// The same for a thread that may wait.
    #[must_use]
    pub fn look_now(&self) -> Option<Roster> {
        let (reply, answer) = oneshot::channel();
        self.tell(Request::Look(reply));
        answer.blocking_recv().ok()
    }

    /// Asks another node, and waits for its answer.
    ///
    /// # Errors
    /// See [`WishError`].
    pub async fn ask(&self, node: u16, question: Vec<u8>) -> Result<Vec<u8>, WishError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Request::Ask {
            node,
            question,
            reply,
        });
        answer.await.unwrap_or(Err(WishError::NoAnswer))
    }

    /// Answers what another node has asked.
    pub fn answer(&self, asked: Asked, answer: Vec<u8>) {
        self.tell(Request::Answer { asked, answer });
    }

    /// Asks `node` to become what `wish` says, and waits until it has, or not.
    ///
    /// # Errors
    /// See [`WishError`].
    pub async fn wish(&self, node: u16, wish: Wish) -> Result<(), WishError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Request::Wish { node, wish, reply });
        let outcome = answer.await.unwrap_or(Err(WishError::NoAnswer));
        outcome.map(|_| ())
    }

    /// Says how many connections this node has, and whether its draining is over.
    pub fn set_load(&self, connections: u32, drained: bool) {
        self.tell(Request::Load {
            connections,
            drained,
        });
    }

    /// Says which other members are on the wire; `None`: all, as far as anybody knows.
    pub fn set_on_wire(&self, members: Option<Vec<u16>>) {
        self.tell(Request::OnWire(members));
    }

    /// Says whether this node's application of `service`, by its index in the
    /// configuration, is well. All are until somebody says otherwise.
    pub fn set_health(&self, service: usize, well: bool) {
        self.tell(Request::Health { service, well });
    }
}

impl Members {
    /// Starts to speak and to hear on `socket`; other members listen at `port`. Their
    /// questions go to `mail`; where it is full they wait until they come again.
    ///
    /// # Errors
    /// The process has no room for another thread or descriptor.
    pub fn start(
        core: Membership,
        start: Instant,
        socket: UdpSocket,
        port: u16,
        metrics: Arc<MemberMetrics>,
        publisher: Publisher,
        mail: Sender<Asked>,
    ) -> io::Result<Self> {
        let (requests, inbox) = unbounded();
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let speaker = Speaker {
            core,
            start,
            socket,
            port,
            bell: ear,
            requests: inbox,
            metrics,
            publisher,
            joined: false,
            liveness: HashMap::new(),
            ticket: 0,
            waiting: HashMap::new(),
            mail,
        };
        let body = move || {
            if let Err(error) = dpdk::thread::be_punctual() {
                tracing::info!(%error, "the membership thread has no real-time priority");
            }
            speaker.run();
        };
        let thread = Some(threads::spawn("dts-members", body)?);
        let handle = Handle {
            requests,
            bell: Arc::new(bell),
        };
        Ok(Self { handle, thread })
    }

    /// A way to ask the thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.handle.tell(Request::Leave);
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

impl Speaker {
    fn now(&self) -> Time {
        self.start.elapsed()
    }

    fn run(mut self) {
        let mut go_on = true;
        while go_on {
            self.wait();
            self.listen();
            go_on = self.obey();
            let now = self.now();
            if now >= self.core.next() {
                self.core.tick(now);
            }
            self.speak();
            self.tell();
        }
        // The goodbyes pass through this node's own workers, which are stopped next.
        std::thread::sleep(LAST_WORDS);
    }

    /// Sleeps until a message, a request or the next deadline.
    fn wait(&self) {
        let now = self.now();
        let due = if self.joined {
            self.core.next()
        } else {
            // Owners change when the node has joined, whether or not anything happens.
            self.core.next().min(now + Duration::from_millis(20))
        };
        // Rounded up, or the last millisecond would be spent in asking again and again.
        let span = due.saturating_sub(now).min(NAP) + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(span).unwrap_or(PollTimeout::ZERO);
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait is one that was short.
        let _ = poll(&mut fds, timeout);
    }

    fn listen(&mut self) {
        // One byte more than any message has, so that a longer one shows as such.
        let mut bytes = [0; dts_membership::envelope::LEN_MAX + 1];
        for _ in 0..BATCH {
            let Ok((len, from)) = self.socket.recv_from(&mut bytes) else {
                return;
            };
            let now = self.now();
            let from = from.ip().to_canonical();
            match self.core.hear(&bytes[..len], from, now) {
                Ok(()) => self.metrics.accepted(),
                Err(why) => self.metrics.refused(why, from),
            }
        }
    }

    /// Does what is asked; false when it is to end.
    fn obey(&mut self) -> bool {
        let mut rung = [0; 64];
        while (&self.bell).read(&mut rung).is_ok_and(|n| n > 0) {}
        let now = self.now();
        for request in self.requests.try_iter() {
            match request {
                Request::Look(reply) => {
                    let roster = Roster {
                        members: self.core.members(),
                        agreed: self.core.agreed().clone(),
                        schedule: self.core.schedule().clone(),
                        superseded: self.core.superseded(),
                        now,
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(roster);
                }
                Request::Wish { node, wish, reply } => {
                    self.ticket += 1;
                    self.waiting.insert(self.ticket, reply);
                    self.core.wish(self.ticket, node, wish, PATIENCE, now);
                }
                Request::Ask {
                    node,
                    question,
                    reply,
                } => {
                    self.ticket += 1;
                    self.waiting.insert(self.ticket, reply);
                    self.core.ask(self.ticket, node, question, PATIENCE, now);
                }
                Request::Answer { asked, answer } => self.core.answer(&asked, &answer),
                Request::Load {
                    connections,
                    drained,
                } => self.core.set_own(now, |r| {
                    r.load = connections;
                    r.drained = drained;
                }),
                Request::Health { service, well } => self.core.set_own(now, |r| {
                    let bit = 1 << service.min(63);
                    r.health = if well {
                        r.health | bit
                    } else {
                        r.health & !bit
                    };
                }),
                Request::OnWire(members) => self.core.set_on_wire(members),
                Request::Leave => {
                    self.core.leave(now);
                    return false;
                }
                #[cfg(test)]
                Request::Stop(end) => {
                    let _ = end.recv();
                }
            }
        }
        true
    }

    /// A message that cannot be sent is one that was lost.
    fn speak(&mut self) {
        for datagram in self.core.take_outbox() {
            let to = SocketAddr::new(datagram.to, self.port);
            let _ = self.socket.send_to(&datagram.bytes, to);
        }
    }

    fn tell(&mut self) {
        for asked in self.core.take_asked() {
            let _ = self.mail.try_send(asked);
        }
        let outcomes: Vec<Outcome> = self.core.take_outcomes();
        for (ticket, outcome) in outcomes {
            if let Some(reply) = self.waiting.remove(&ticket) {
                let _ = reply.send(outcome);
            }
        }
        self.metrics.stalls(self.core.stalls());
        let joins = !self.joined && self.core.has_joined(self.now());
        self.joined |= joins;
        if self.core.take_changed() || joins {
            let (members, agreed) = (self.core.members(), self.core.agreed().clone());
            let epoch = self.core.own_record().epoch;
            self.metrics.show(&members, epoch, &agreed);
            for m in &members {
                let before = self.liveness.insert(m.peer.node, m.liveness);
                if before.is_some_and(|b| b != m.liveness) {
                    self.metrics.changed(m.liveness);
                }
            }
            self.publisher.publish(members, agreed, self.joined);
        }
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
