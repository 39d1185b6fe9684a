//! What may leave a node, and in what shape.

use super::node::VIPS;
use crate::frames::{self, Kind};
use dts_core::frame::Port;
use dts_core::view::View;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An FCB, as the listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub state: &'static str,
}

/// The FCBs before and after a call: a call may make or end one.
pub struct Permits<'a> {
    pub before: &'a [Permit],
    pub after: &'a [Permit],
}

impl Permits<'_> {
    fn states(&self, client: SocketAddr, vip: SocketAddr) -> impl Iterator<Item = &'static str> {
        let all = self.before.iter().chain(self.after);
        all.filter(move |p| p.client == client && p.vip == vip)
            .map(|p| p.state)
    }
}

/// Panics when `frame` must not leave by `port`; `from` is where a frame came in,
/// if one did. `dirty`: something came in that was not well-formed; `large`: the frame
/// is yet to be cut into segments.
pub fn frame(
    v: &View,
    p: &Permits<'_>,
    port: Port,
    from: Option<Port>,
    frame: &[u8],
    (dirty, large): (bool, bool),
) {
    let kind = frames::read(frame);
    match port {
        Port::Wire => {
            assert_eq!(frame[6..12], v.wire_mac, "source address on the wire");
            match &kind {
                Kind::Tcp(t) => from_host(v, p, t),
                Kind::Fragment(src, _) => {
                    assert!(dirty || !VIPS.contains(src), "a fragment from a VIP");
                }
                Kind::Datagram | Kind::Other => {}
            }
        }
        Port::WireHost => {
            if let Kind::Tcp(t) = &kind {
                to_host(v, p, t);
            }
        }
        Port::LinkHost => {
            if let Kind::Tcp(t) = &kind {
                let ours = v.is_app_port(t.dport) || v.is_hidden(t.dport);
                let here = t.dst == v.link.ip();
                assert!(!(ours && here), "a service's segment for the link's stack");
            }
        }
        Port::Link => {
            if let Kind::Tcp(t) = &kind
                && from == Some(Port::LinkHost)
            {
                assert!(!v.is_hidden(t.sport), "a local application on the link");
            }
        }
    }
    let made = port == Port::Link && from != Some(Port::LinkHost);
    if made || !dirty {
        let sound = match &kind {
            Kind::Tcp(t) => t.sound,
            Kind::Fragment(_, sound) => *sound,
            Kind::Datagram => true,
            Kind::Other => from.is_some_and(|p| p.twin() == port) || arp(frame),
        };
        assert!(sound, "not well-formed on {}: {frame:02x?}", port.name());
        let most = v.params.mtu + 14;
        let fits = frame.len() <= most || (large && port == Port::Wire);
        assert!(fits, "{} bytes on {}", frame.len(), port.name());
    }
}

fn arp(frame: &[u8]) -> bool {
    frame.len() == 60 && frame[12..14] == [8, 6]
}

fn from_host(v: &View, p: &Permits<'_>, t: &frames::Tcp) {
    assert!(!v.is_hidden(t.sport), "port {} on the wire", t.sport);
    if !v
        .services
        .iter()
        .any(|s| (s.vip.ip(), s.port) == (t.src, t.sport))
    {
        return;
    }
    let client = SocketAddr::from((t.dst, t.dport));
    let vip = SocketAddr::from((t.src, t.sport));
    let permitted = p.states(client, vip).any(|state| match state {
        "half_open" | "intake" | "served" => true,
        "tombstone" => t.rst,
        // Reset at its deadline, or given up with what waited for that let out, and, an
        // hour later, forgotten in one tick.
        "handover" => p.after.iter().all(|p| p.client != client),
        _ => false,
    });
    // The owner of a bucket resets a flow that it does not know, and nobody claims.
    let orphan = t.rst && t.len == 0 && p.states(client, vip).next().is_none();
    assert!(
        permitted || orphan,
        "no FCB permits {t:?}: {:?}, {:?}",
        p.before,
        p.after
    );
}

fn to_host(v: &View, p: &Permits<'_>, t: &frames::Tcp) {
    let local =
        |s: &dts_core::view::Service| s.proxy_port == Some(t.dport) || s.app_port == t.dport;
    if !VIPS.contains(&t.dst) {
        return assert!(!v.is_hidden(t.dport), "port {} for the stack", t.dport);
    }
    let client = SocketAddr::from((t.src, t.sport));
    let here = || v.services.iter().filter(|s| s.vip.ip() == t.dst);
    let mut known = here().filter(|s| local(s)).flat_map(|s| {
        let vip = SocketAddr::from((t.dst, s.port));
        p.states(client, vip)
    });
    let ours = here().any(|s| local(s) || s.port == t.dport);
    assert!(!ours || known.next().is_some(), "no FCB knows {t:?}");
}

/// The datagrams that fragments make; panics when they do not make whole ones.
pub fn datagrams(parts: &[Vec<u8>], dirty: bool) -> Vec<Vec<u8>> {
    let mut by_id: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for p in parts {
        by_id
            .entry(frames::datagram_id(p))
            .or_default()
            .push(p.clone());
    }
    let whole = by_id.values().filter_map(|parts| {
        let whole = frames::reassemble(parts);
        let sound = whole
            .as_deref()
            .is_some_and(|f| matches!(frames::read(f), Kind::Tcp(t) if t.sound));
        assert!(dirty || sound, "fragments of no whole segment");
        whole.filter(|_| sound)
    });
    whole.collect()
}
