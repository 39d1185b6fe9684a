//! The programs of a node: the proxy with the daemon that conducts its handovers, and
//! the application.
//!
//! [`Proxy`] is a miniature of `dts-proxy` and of `control/dtsd/src/handover.rs`: read a
//! request and write nothing; freeze; drain what is left in the socket and check that it
//! is all; splice; bury; or, after a failure that allows it, ask another node. Between any
//! two steps packets go on.

use crate::node::{APP_PORT, Node, PROXY_PORT, link_addr, vip_for};
use crate::plan::{Plan, Step};
use crate::stack::host::Name;
use crate::talk::Request;
use dts_core::command::{Command, Event, Fail};
use dts_core::mutation::{Mutation, broken};
use smoltcp::socket::tcp::State;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

/// How far a handover is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The proxy reads.
    Reading,
    /// It has asked; the daemon freezes when this is due.
    Asked,
    /// The worker was asked to freeze.
    Freezing,
    /// The drain is due.
    Draining,
    /// The splice is due, with this.
    Splicing(Vec<u8>, bool),
    /// The worker was asked to splice.
    Waiting,
    /// The socket is to be buried.
    Burying,
    /// Nothing more is tried; the proxy closed the connection.
    GaveUp,
}

/// A connection of the proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What it has read.
    pub read: Vec<u8>,
    /// How far it is.
    pub stage: Stage,
    /// The daemon's name for the handover.
    pub ticket: u64,
    /// Destinations asked so far.
    pub asked: usize,
    isn: u32,
    /// The initial number of its own socket.
    own: u32,
    /// An application asks, not the proxy: for this node, its socket having received
    /// so many bytes before the request.
    pub onward: Option<(u16, u32)>,
}

impl Proxy {
    /// The port of the socket that is handed over.
    fn port(&self) -> u16 {
        self.onward.map_or(PROXY_PORT, |_| APP_PORT)
    }
}

/// A connection of the application.
#[derive(Clone, Debug, Default)]
pub struct App {
    isn: u32,
    unparsed: Vec<u8>,
    head: Option<Request>,
    answers: Vec<u8>,
    written: usize,
    answer_at: u64,
    closed: bool,
    /// Bytes of requests that were answered here.
    taken: u32,
    /// No other node takes the flow.
    stays: bool,
}

/// What an actor did that the run wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A step of a handover.
    Step(Step),
    /// The next step is due after a delay that the run chooses.
    Due(SocketAddr),
    /// The same, after this long.
    Later(SocketAddr, u64),
    /// A handover was accepted, by this node.
    Accepted(u16),
    /// A handover failed.
    Failed(SocketAddr, Fail),
    /// A request was executed.
    Executed(u64),
    /// The application wants to run again then.
    Wake(u64),
    /// The application, or a proxy that gave up, reset or closed a connection.
    Gave,
    /// Something is wrong.
    Wrong(String),
}

/// Lets the proxy of a node look at its sockets.
pub fn run_proxy(n: &mut Node, plan: &Plan, notes: &mut Vec<Note>) {
    let clients: Vec<SocketAddr> = (n.host.tcbs.keys())
        .filter(|k| k.0 == PROXY_PORT)
        .map(|k| k.1)
        .collect();
    let live: BTreeSet<SocketAddr> = clients.iter().copied().collect();
    n.proxies
        .retain(|c, p| live.contains(c) || !matches!(p.stage, Stage::Reading | Stage::GaveUp));
    for client in clients {
        let name: Name = (PROXY_PORT, client);
        let Some(t) = n.host.tcbs.get_mut(&name) else {
            continue;
        };
        if !matches!(t.state(), State::Established | State::CloseWait) {
            continue;
        }
        // The same ports may have had another connection before.
        let (isn, own) = (t.peer_isn, t.setup.isn);
        if n.proxies.get(&client).is_some_and(|p| p.isn != isn) {
            n.proxies.remove(&client);
        }
        let p = n.proxies.entry(client).or_insert_with(|| {
            notes.push(Note::Step(Step::Established));
            Proxy {
                isn,
                own,
                read: Vec::new(),
                stage: Stage::Reading,
                ticket: 0,
                asked: 0,
                onward: None,
            }
        });
        if p.stage != Stage::Reading {
            continue;
        }
        let here = p.read.len() + t.socket().recv_queue();
        let enough = plan.ask_at.min(plan.first_window as usize);
        let most = plan.read_most.min(enough.max(1));
        if p.read.len() < most {
            let b = t.read(most - p.read.len());
            p.read.extend(b);
        }
        if here >= enough && enough > 0 {
            p.stage = Stage::Asked;
            notes.push(Note::Step(Step::Asked));
            notes.push(Note::Due(client));
        } else if t.peer_closed() && t.socket().recv_queue() == 0 {
            t.socket().close();
            p.stage = Stage::GaveUp;
            notes.push(Note::Gave);
        }
    }
}

/// Does the step of a handover that is due.
pub fn step(n: &mut Node, plan: &Plan, client: SocketAddr, now: u64, notes: &mut Vec<Note>) {
    let here = n.proxies.get(&client).map_or(0, |p| p.asked);
    let dest = choice(n, plan, client, here);
    let Some(p) = n.proxies.get_mut(&client) else {
        return;
    };
    let name: Name = (p.port(), client);
    let ticket = p.ticket;
    match p.stage.clone() {
        Stage::Asked => {
            n.ticket += 1;
            p.ticket = n.ticket;
            p.stage = Stage::Freezing;
            let ticket = p.ticket;
            let local = SocketAddr::new(vip_for(client.ip()), name.0);
            let freeze = Command::Freeze {
                ticket,
                client,
                local,
            };
            n.command(client, freeze, now);
        }
        Stage::Draining => match drain(n, plan, client) {
            Ok((request, fin)) => {
                notes.push(Note::Step(Step::Drained));
                notes.push(Note::Due(client));
                if let Some(p) = n.proxies.get_mut(&client) {
                    p.stage = Stage::Splicing(request, fin);
                }
            }
            Err(_) => {
                n.command(client, Command::Unfreeze { ticket }, now);
                give_up(n, client, notes);
            }
        },
        Stage::Splicing(request, client_fin) => {
            let (dest, taken) = p.onward.unwrap_or((dest, 0));
            let dest = SocketAddr::new(Ipv4Addr::from(link_addr(dest)).into(), APP_PORT);
            p.stage = Stage::Waiting;
            let splice = Command::Splice {
                ticket: p.ticket,
                dest,
                request,
                taken,
                client_fin,
            };
            n.command(client, splice, now);
        }
        Stage::Burying => {
            // The flow may have come back to a new socket by now.
            n.host.bury(&name, p.own);
            n.proxies.remove(&client);
            notes.push(Note::Step(Step::Buried));
        }
        _ => {}
    }
}

/// The destination that is asked as number `asked`: one that takes connections, where nodes
/// know of each other, as a proxy's policy would have it; else the plan's.
fn choice(n: &Node, plan: &Plan, client: SocketAddr, asked: usize) -> u16 {
    let takes: Vec<u16> = (n.view.members.iter())
        .filter(|m| m.id == n.id || m.takes(0))
        .map(|m| m.id)
        .collect();
    if plan.members {
        return takes[(usize::from(client.port()) + asked) % takes.len()];
    }
    plan.dests[asked.min(plan.dests.len() - 1)]
}

/// `control/dtsd/src/drain.rs`: the bytes, and that they are all.
fn drain(n: &mut Node, plan: &Plan, client: SocketAddr) -> Result<(Vec<u8>, bool), String> {
    let Some(p) = n.proxies.get(&client) else {
        return Err("no connection".into());
    };
    let Some(t) = n.host.tcbs.get_mut(&(p.port(), client)) else {
        return Err("no socket".into());
    };
    if t.socket().send_queue() > 0 {
        return Err("bytes in the send queue".into());
    }
    let state = t.state();
    if !matches!(state, State::Established | State::CloseWait) {
        return Err(format!("state {state:?}"));
    }
    let mut request = p.read.clone();
    request.extend(t.peek());
    let found = p.onward.map_or(0, |o| o.1 as usize) + request.len();
    if t.received() != found && !broken(Mutation::UrgentUnchecked) {
        return Err(format!("{} bytes received, {found} found", t.received()));
    }
    if request.len() > plan.first_window as usize {
        return Err("too large".into());
    }
    if plan.short_drain {
        request.pop();
    }
    Ok((request, state == State::CloseWait))
}

/// What a worker reports about a handover.
pub fn event(n: &mut Node, plan: &Plan, e: Event, notes: &mut Vec<Note>) {
    let ticket = match &e {
        Event::Frozen { ticket, .. } | Event::Done { ticket, .. } => *ticket,
        Event::Failed { ticket, .. }
        | Event::Flows { ticket, .. }
        | Event::Found { ticket, .. } => *ticket,
        // Of no handover.
        Event::OnWire { .. } => return,
    };
    let found = n.proxies.iter_mut().find(|(_, p)| p.ticket == ticket);
    let Some((&client, p)) = found else {
        return;
    };
    match e {
        Event::Frozen { .. } if p.stage == Stage::Freezing => {
            p.stage = Stage::Draining;
            notes.push(Note::Step(Step::Frozen));
            notes.push(Note::Due(client));
        }
        Event::Done { node, .. } => {
            p.stage = Stage::Burying;
            notes.push(Note::Accepted(node));
            notes.push(Note::Due(client));
        }
        Event::Failed { fail, .. } => {
            notes.push(Note::Failed(client, fail));
            p.asked += 1;
            let elsewhere = matches!(
                fail,
                Fail::Refused(_) | Fail::Aborted | Fail::Unreachable | Fail::Busy
            );
            if fail == Fail::Unknown {
                p.stage = Stage::Burying;
                notes.push(Note::Due(client));
            } else if elsewhere && p.onward.is_none() && p.asked < plan.dests.len() {
                p.stage = Stage::Asked;
                notes.push(Note::Later(client, plan.retry_wait));
            } else {
                give_up(n, client, notes);
            }
        }
        Event::Frozen { .. } | Event::Flows { .. } | Event::Found { .. } | Event::OnWire { .. } => {
        }
    }
}

/// The proxy ends a connection that no node takes, as `dts-proxy` does.
fn give_up(n: &mut Node, client: SocketAddr, notes: &mut Vec<Note>) {
    if n.proxies.get(&client).is_some_and(|p| p.onward.is_some()) {
        // The application answers itself.
        if let (Some(p), Some(a)) = (n.proxies.remove(&client), n.apps.get_mut(&client)) {
            a.unparsed = p.read;
            a.stays = true;
        }
        return;
    }
    if let Some(p) = n.proxies.get_mut(&client) {
        p.stage = Stage::GaveUp;
    }
    if let Some(t) = n.host.tcbs.get_mut(&(PROXY_PORT, client)) {
        t.socket().close();
    }
    notes.push(Note::Gave);
}

/// Lets the application of a node look at its sockets.
pub fn run_app(n: &mut Node, plan: &Plan, now: u64, notes: &mut Vec<Note>) {
    let clients: Vec<SocketAddr> = (n.host.tcbs.keys())
        .filter(|k| k.0 == APP_PORT)
        .map(|k| k.1)
        .collect();
    n.apps
        .retain(|c, _| n.host.tcbs.contains_key(&(APP_PORT, *c)));
    for client in clients {
        let Some(t) = n.host.tcbs.get_mut(&(APP_PORT, client)) else {
            continue;
        };
        if matches!(t.state(), State::Listen | State::SynReceived) {
            continue;
        }
        let isn = t.peer_isn;
        let a = n.apps.entry(client).or_default();
        if a.isn != isn {
            *a = App {
                isn,
                ..App::default()
            };
        }
        if n.proxies.get(&client).is_some_and(|p| p.onward.is_some()) {
            continue;
        }
        a.unparsed.extend(t.read(usize::MAX));
        if let Some(node) = a.onward(plan) {
            if n.proxies.contains_key(&client) {
                // The socket by which the flow came has not been buried yet.
                notes.push(Note::Wake(now + plan.rpc_delay));
                continue;
            }
            let p = Proxy {
                read: std::mem::take(&mut a.unparsed),
                stage: Stage::Asked,
                ticket: 0,
                asked: 0,
                isn,
                own: t.setup.isn,
                onward: Some((node, a.taken)),
            };
            n.proxies.insert(client, p);
            notes.push(Note::Due(client));
            continue;
        }
        if let Err(what) = a.parse(plan, now, notes) {
            notes.push(Note::Wrong(format!("node {}: {what}", n.id)));
            a.unparsed.clear();
            t.socket().abort();
            continue;
        }
        if a.written < a.answers.len() {
            if now < a.answer_at {
                notes.push(Note::Wake(a.answer_at));
            } else if plan.app_resets {
                t.socket().abort();
                a.written = a.answers.len();
                notes.push(Note::Gave);
            } else {
                let k = t.write(&a.answers[a.written..]);
                a.written += k;
            }
        }
        let answered = a.written == a.answers.len() && a.head.is_none() && a.unparsed.is_empty();
        let over = t.peer_closed() && t.socket().recv_queue() == 0;
        let all = plan.app_closes && a.answers.len() == total(plan, client);
        if answered && !a.closed && (over || all) {
            a.closed = true;
            t.socket().close();
        }
    }
}

/// Bytes of all answers to a client.
fn total(plan: &Plan, client: SocketAddr) -> usize {
    let i = crate::world::client_index(client);
    plan.clients.get(i).map_or(usize::MAX, |c| {
        c.requests.iter().map(|r| r.1).sum::<usize>()
    })
}

impl App {
    /// Where the next request's connection goes, if not here: to another node for each
    /// request behind the first.
    fn onward(&self, plan: &Plan) -> Option<u16> {
        let idle = self.written == self.answers.len() && self.head.is_none();
        if self.taken == 0 || self.stays || !idle {
            return None;
        }
        let next = Request::parse(&self.unparsed).ok().flatten()?;
        plan.hops.get((next.id & 0xff) as usize - 1).copied()
    }

    fn parse(&mut self, plan: &Plan, now: u64, notes: &mut Vec<Note>) -> Result<(), String> {
        loop {
            if self.head.is_none() {
                self.head = Request::parse(&self.unparsed)?;
            }
            let Some(r) = self.head.filter(|r| self.unparsed.len() >= r.len) else {
                return Ok(());
            };
            let bytes: Vec<u8> = self.unparsed.drain(..r.len).collect();
            if bytes != r.bytes() {
                return Err(format!("request {:#x} is damaged", r.id));
            }
            self.head = None;
            self.taken += r.len as u32;
            self.stays = false;
            notes.push(Note::Executed(r.id));
            if self.written == self.answers.len() {
                self.answer_at = now + plan.think;
            }
            self.answers.extend(r.answer());
        }
    }
}
