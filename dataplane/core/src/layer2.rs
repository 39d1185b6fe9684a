//! What the wire's switches and routers have to be told, and what they should not be heard
//! saying.
//!
//! The cluster's address is one that no port may be known for, so that switches give every
//! node all of its frames: a unicast address that nobody sends from, a multicast address, or
//! one whose group every node joins (IGMP), for switches that listen.

use crate::frame::{Output, Port};
use crate::key::Addr;
use crate::shard::Shard;
use crate::time::{Instant, Span};
use crate::view::View;
use crate::wire::arp::{self, Arp};
use crate::wire::nd::{self, Advert};
use crate::wire::{self, Ip, Mac, igmp};

/// Announcements after a start, or after the members changed: one may be lost.
const ANNOUNCEMENTS: u8 = 3;
/// Between two of them.
const BETWEEN: Span = Span::secs(1);
/// Between two reports that nobody asked for: less than half of what snooping switches
/// remember a member (RFC 2236, section 8.4: 260 s).
const REFRESH: Span = Span::secs(60);
/// Reports after a start (RFC 2236, section 3: one may be lost).
const FIRST_REPORTS: u8 = 2;

/// What is to be said, and when.
#[derive(Debug, Default)]
pub(crate) struct Layer2 {
    announcements: u8,
    next_announcement: Instant,
    first_reports: u8,
    /// When the next report is due; `None` before the first tick.
    next_report: Option<Instant>,
}

impl Shard {
    /// What is due of announcements and reports; `news`: this is the first tick, or the members
    /// changed since the last one. One worker speaks for the node.
    pub(crate) fn layer2_tick<O: Output>(
        &mut self,
        v: &View,
        news: bool,
        now: Instant,
        out: &mut O,
    ) {
        if self.worker != 0 {
            return;
        }
        let l = &mut self.layer2;
        if news && v.params.announce {
            (l.announcements, l.next_announcement) = (ANNOUNCEMENTS, now);
        }
        if l.announcements > 0 && now >= l.next_announcement {
            l.announcements -= 1;
            l.next_announcement = now + BETWEEN;
            self.announce(v, out);
        }
        if let Some(group) = v.igmp {
            let l = &mut self.layer2;
            if l.next_report.is_none() {
                l.first_reports = FIRST_REPORTS;
            }
            if l.next_report.is_none_or(|at| now >= at) {
                l.first_reports = l.first_reports.saturating_sub(1);
                let first = l.first_reports > 0;
                l.next_report = Some(now + if first { BETWEEN } else { REFRESH });
                let src = v.own.iter().find(|a| a.is_v4()).map(Addr::octets_v4);
                let report = igmp::report(v.cluster_mac, v.wire_mac, src.unwrap_or([0; 4]), group);
                self.emit(Port::Wire, &report, out);
            }
        } else {
            self.layer2.next_report = None;
        }
    }

    /// Tells everybody where the VIPs are: gratuitous ARP (RFC 5227, section 3) and unsolicited
    /// advertisements (RFC 4861, section 7.2.6). Each VIP is one node's to announce.
    fn announce<O: Output>(&mut self, v: &View, out: &mut O) {
        let mut said: Vec<Addr> = Vec::new();
        for service in &v.services {
            let vip = service.vip;
            if said.contains(&vip) || v.general.owner_of(&vip) != v.node {
                continue;
            }
            said.push(vip);
            if vip.is_v4() {
                let a = Arp {
                    op: arp::REQUEST,
                    sha: v.cluster_mac,
                    spa: vip.octets_v4(),
                    tha: [0; 6],
                    tpa: vip.octets_v4(),
                };
                self.emit(Port::Wire, &a.frame(wire::BROADCAST, v.wire_mac), out);
            } else {
                let a = Advert {
                    dst: nd::ALL_NODES,
                    target: vip,
                    link: v.cluster_mac,
                    solicited: false,
                };
                let to = nd::group_mac(&nd::ALL_NODES);
                self.emit(Port::Wire, &a.frame(to, v.wire_mac), out);
            }
        }
    }

    /// A question of a multicast router: who is in the group? Answered within the time that it
    /// gives, by each node at a time of its own.
    pub(crate) fn igmp_query(&mut self, v: &View, frame: &[u8], ip: &Ip, now: Instant) {
        let (Some(group), Some(q)) = (v.igmp, igmp::query(frame, ip)) else {
            return;
        };
        if q.group != [0; 4] && q.group != group {
            return;
        }
        let within = Span(q.within.0 * u64::from(v.node % 16) / 16);
        let at = now + within;
        let due = &mut self.layer2.next_report;
        *due = Some(due.map_or(at, |t| t.min(at)));
    }

    /// Someone says where an address is.
    pub(crate) fn heard_claim(&mut self, v: &View, of: &Addr, at: Mac) {
        if at != v.cluster_mac && v.is_vip(of) {
            self.counters.vip_conflicts += 1;
        }
    }
}
