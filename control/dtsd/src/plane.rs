//! How control threads talk to the data plane: commands go to a worker, and one
//! thread brings what all workers report to whoever waits for it.

use crossbeam_channel::Receiver;
use dts_core::command::{Command, Event};
use dts_core::found::Found;
use dts_core::key::FlowKey;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The data plane as the handover code sees it.
pub trait Plane: Send + Sync {
    /// How many workers there are.
    fn workers(&self) -> usize;
    /// Which of them has the flows of this client.
    fn worker_of(&self, client: SocketAddr) -> usize;
    /// Queues a command.
    ///
    /// # Errors
    /// The worker's queue is full, or the data plane has stopped; the command
    /// comes back.
    fn command(&self, worker: usize, command: Command) -> Result<(), Command>;
}

/// Where a ticket's events wait. No channel: those spin before they sleep, and what
/// spins here keeps the worker that it waits for from its core.
#[derive(Debug)]
struct Place {
    events: Mutex<VecDeque<Event>>,
    most: usize,
    arrival: Condvar,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, event: Event) {
        let mut events = self.lock();
        if events.len() < self.most {
            events.push_back(event);
            drop(events);
            self.arrival.notify_one();
        }
    }
}

/// Who wants to know who is on the wire.
type Ear = Box<dyn Fn(Option<Vec<u16>>) + Send>;

/// Who is on the wire, by the last word of it, and who wants to know.
#[derive(Default)]
struct Wire {
    last: Option<Option<Vec<u16>>>,
    ear: Option<Ear>,
}

/// Brings events to the threads that wait for them.
#[derive(Default)]
pub struct Dispatcher {
    waiting: Mutex<HashMap<u64, Arc<Place>>>,
    last_ticket: AtomicU64,
    wire: Mutex<Wire>,
}

impl Dispatcher {
    /// A new ticket, and the place where its events arrive. At most `events`
    /// wait there unread; more are lost.
    #[must_use]
    pub fn open(self: &Arc<Self>, events: usize) -> Waiter {
        let ticket = self.last_ticket.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Arc::new(Place {
            events: Mutex::default(),
            most: events,
            arrival: Condvar::new(),
        });
        self.lock().insert(ticket, Arc::clone(&place));
        Waiter {
            ticket,
            place,
            dispatcher: Arc::clone(self),
        }
    }

    /// Tells `ear` who is on the wire, from the last word on; it must not block.
    pub fn on_wire(&self, ear: impl Fn(Option<Vec<u16>>) + Send + 'static) {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = wire.last.take() {
            ear(last);
        }
        wire.ear = Some(Box::new(ear));
    }

    /// Serves until every sender of `events` is gone.
    pub fn run(&self, events: &Receiver<(usize, Event)>) {
        for (_, event) in events {
            self.deliver(event);
        }
    }

    /// An event that nobody waits for any more is dropped: its handover has
    /// been answered.
    pub fn deliver(&self, event: Event) {
        let ticket = match event {
            Event::Frozen { ticket, .. }
            | Event::Done { ticket, .. }
            | Event::Failed { ticket, .. }
            | Event::Flows { ticket, .. }
            | Event::Found { ticket, .. } => ticket,
            Event::OnWire { members } => {
                let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
                return match &wire.ear {
                    Some(ear) => ear(members),
                    None => wire.last = Some(members),
                };
            }
        };
        let place = self.lock().get(&ticket).cloned();
        if let Some(place) = place {
            place.put(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Place>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of one ticket; dropping it ends the ticket.
pub struct Waiter {
    /// What commands name this by.
    pub ticket: u64,
    place: Arc<Place>,
    dispatcher: Arc<Dispatcher>,
}

impl Waiter {
    /// The next event, or `None` at the deadline.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Option<Event> {
        let left = deadline.saturating_duration_since(Instant::now());
        let place = &self.place;
        let waited = place
            .arrival
            .wait_timeout_while(place.lock(), left, |events| events.is_empty());
        let (mut events, _) = waited.unwrap_or_else(PoisonError::into_inner);
        events.pop_front()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.dispatcher.lock().remove(&self.ticket);
    }
}

/// Asks every worker for up to `limit` flows and waits at most `patience` for
/// all answers; a worker that does not answer is left out.
#[must_use]
pub fn flows(
    plane: &dyn Plane,
    dispatcher: &Arc<Dispatcher>,
    limit: usize,
    patience: Duration,
) -> Vec<dts_core::command::FlowInfo> {
    let waiter = dispatcher.open(plane.workers());
    let deadline = Instant::now() + patience;
    let ask = |&worker: &usize| {
        plane
            .command(
                worker,
                Command::Flows {
                    ticket: waiter.ticket,
                    limit,
                },
            )
            .is_ok()
    };
    let asked = (0..plane.workers()).filter(ask).count();
    let mut all = Vec::new();
    for _ in 0..asked {
        match waiter.next(deadline) {
            Some(Event::Flows { flows, .. }) => all.extend(flows),
            Some(_) => {}
            None => break,
        }
    }
    all.truncate(limit);
    all
}

/// The worker did not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data plane does not answer")]
pub struct Silent;

/// Asks the worker that would have the flow for it, and waits at most `patience`.
///
/// # Errors
/// The worker's queue is full, or it does not answer.
pub fn find(
    plane: &dyn Plane,
    dispatcher: &Arc<Dispatcher>,
    key: FlowKey,
    patience: Duration,
) -> Result<Option<Found>, Silent> {
    let waiter = dispatcher.open(1);
    let deadline = Instant::now() + patience;
    let ticket = waiter.ticket;
    let worker = plane.worker_of(key.client());
    let asked = plane.command(worker, Command::Find { ticket, key });
    asked.map_err(|_| Silent)?;
    match waiter.next(deadline) {
        Some(Event::Found { found, .. }) => Ok(found),
        _ => Err(Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dts_core::command::Fail;

    #[test]
    fn events_reach_their_own_waiter() {
        let dispatcher = Arc::new(Dispatcher::default());
        let (a, b) = (dispatcher.open(2), dispatcher.open(2));
        assert_ne!(a.ticket, b.ticket);
        dispatcher.deliver(Event::Failed {
            ticket: b.ticket,
            fail: Fail::Busy,
        });
        let now = Instant::now();
        assert!(a.next(now).is_none());
        let event = b.next(now).unwrap();
        assert!(matches!(
            event,
            Event::Failed {
                fail: Fail::Busy,
                ..
            }
        ));
    }

    #[test]
    fn the_last_word_of_the_wire_waits_for_who_wants_to_know() {
        let dispatcher = Dispatcher::default();
        let say = |members: &[u16]| {
            let members = Some(members.to_vec());
            dispatcher.deliver(Event::OnWire { members });
        };
        say(&[2]);
        say(&[2, 3]);
        let (heard, hears) = std::sync::mpsc::channel();
        dispatcher.on_wire(move |members| heard.send(members).unwrap());
        say(&[]);
        let all: Vec<_> = hears.try_iter().collect();
        assert_eq!(all, [Some(vec![2, 3]), Some(vec![])]);
    }

    #[test]
    fn a_ticket_ends_with_its_waiter() {
        let dispatcher = Arc::new(Dispatcher::default());
        let ticket = dispatcher.open(1).ticket;
        assert!(dispatcher.lock().is_empty());
        dispatcher.deliver(Event::Failed {
            ticket,
            fail: Fail::Busy,
        });
    }
}
