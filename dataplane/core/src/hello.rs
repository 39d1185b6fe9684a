//! Whom this node hears on the wire, and who hears it.
//!
//! A member that lives may still be one that clients do not reach: its cable to the wire is
//! out, its switch gives it no frames, or takes none from it. Every node therefore says hello
//! on the wire, to the cluster's address as clients do, and lists whom it hears. A member that
//! is heard and that lists this node is **on the wire** for it (the two-way check of OSPF, RFC
//! 2328, section 9.5). The control thread counts new connections and handovers on those only.

use crate::command::Event;
use crate::drops::Drop;
use crate::frame::{Output, Port};
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::hello::Hello;

/// A member that was not heard for so many intervals is off the wire.
const MISSED: u64 = 3;

/// A member as heard on the wire.
#[derive(Debug)]
struct Heard {
    node: u16,
    /// Incarnation and number of its last hello.
    newest: (u64, u64),
    at: Instant,
    /// That one listed this node.
    lists_us: bool,
}

/// What was heard, and what is to be said.
#[derive(Debug, Default)]
pub(crate) struct Hellos {
    /// From when on this node listens without a break: its start, or the end of its last long
    /// stall. `None` before the first tick.
    began: Option<Instant>,
    next: Instant,
    ticked: Instant,
    number: u64,
    heard: Vec<Heard>,
    /// Who is on the wire, by id, as last told; `None`: everybody.
    told: Option<Vec<u16>>,
}

impl Hellos {
    /// Nobody else is on the wire, as far as this node can know.
    pub(crate) fn alone(&self) -> bool {
        self.told.as_ref().is_some_and(Vec::is_empty)
    }

    /// Who was heard since `now` less `within`.
    fn heard(&self, within: Span, now: Instant) -> impl Iterator<Item = &Heard> {
        self.heard.iter().filter(move |m| now - m.at < within)
    }

    /// Who is on the wire, if that is news.
    fn news(&mut self, dead: Span, now: Instant) -> Option<Vec<u16>> {
        let on = || self.heard(dead, now).filter(|m| m.lists_us);
        if let Some(told) = &self.told
            && on().count() == told.len()
            && on().all(|m| told.contains(&m.node))
        {
            return None;
        }
        let mut members: Vec<u16> = on().map(|m| m.node).collect();
        members.sort_unstable();
        self.told = Some(members.clone());
        Some(members)
    }
}

impl Shard {
    /// Says hello when it is time, and tells the control thread when somebody has come or
    /// gone. One worker speaks for the node.
    pub(crate) fn hello_tick<O: Output>(&mut self, v: &View, now: Instant, out: &mut O) {
        let h = &mut self.hellos;
        let Some(every) = v.params.hello.filter(|_| self.worker == 0) else {
            if h.told.is_some() {
                self.events.push(Event::OnWire { members: None });
            }
            *h = Hellos::default();
            return;
        };
        // What came meanwhile is yet to be read by whoever did not run.
        let slept = now - std::mem::replace(&mut h.ticked, now);
        if slept >= every {
            h.heard.iter_mut().for_each(|m| m.at = m.at + slept);
            h.began = h.began.map(|at| at + slept);
        }
        let dead = Span(every.0 * MISSED);
        // The others have missed it meanwhile, and say so until they hear it again.
        if slept >= dead {
            h.began = Some(now);
        }
        let began = *h.began.get_or_insert(now);
        // At first, not to have heard of somebody says nothing.
        if now - began >= dead
            && let Some(members) = h.news(dead, now)
        {
            let members = Some(members);
            self.events.push(Event::OnWire { members });
        }
        // A view has a key.
        if now >= h.next
            && let Some(key) = v.keys.first()
        {
            h.next = now + every;
            h.number += 1;
            let hello = Hello {
                node: v.node,
                incarnation: v.incarnation,
                number: h.number,
                hears: h.heard(dead, now).map(|m| m.node).collect(),
            };
            let frame = hello.frame(v.cluster_mac, v.wire_mac, key);
            self.emit(Port::Wire, &frame, out);
        }
    }

    /// A frame that claims to be a hello. Which start of a member is the one that counts the
    /// membership knows: another node that bears its id by mistake has another.
    pub(crate) fn hello_in(&mut self, v: &View, frame: &[u8], now: Instant) {
        let hello = Hello::parse(frame, &v.keys).ok();
        let hello = hello.filter(|m| v.params.hello.is_some() && m.node != v.node);
        let Some((m, member)) = hello.and_then(|m| v.member(m.node).map(|of| (m, of))) else {
            return self.drop_frame(Drop::HelloRefused);
        };
        match member.known {
            Some((_, start)) if m.incarnation == start => {}
            Some((_, start)) if m.incarnation < start => {
                return self.drop_frame(Drop::HelloRefused);
            }
            // Of a start that is yet to be heard of on the link.
            _ => return self.drop_frame(Drop::HelloConsumed),
        }
        let said = Heard {
            node: m.node,
            newest: (m.incarnation, m.number),
            at: now,
            lists_us: m.hears.contains(v.node),
        };
        match self.hellos.heard.iter_mut().find(|h| h.node == m.node) {
            // Heard before.
            Some(h) if said.newest <= h.newest => return self.drop_frame(Drop::HelloRefused),
            Some(h) => *h = said,
            None => self.hellos.heard.push(said),
        }
        self.drop_frame(Drop::HelloConsumed);
    }
}
