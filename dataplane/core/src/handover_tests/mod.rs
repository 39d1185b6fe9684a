//! Handovers between two nodes, their stacks played by hand.

use super::testkit::*;
use crate::command::{Command, Event, Fail};
use crate::drops::Drop;
use crate::frame::Port;
use crate::wire::options::Build;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use dts_proto::block::{Reason, Replay};

/// Handover by Fast Open replay up to the cut over; `l` is the local ISN.
fn served(c: u32, s: u32, l: u32) -> Pair {
    let mut p = Pair::frozen(c, s, l);
    p.splice_to(2);
    p.link();
    let syn = p.b.one(Port::WireHost);
    assert_eq!((syn.seg.flags, syn.seg.seq, syn.seg.dport), (SYN, c, 8080));
    assert_eq!(syn.payload, GET, "the SYN carries the whole request");
    assert_eq!(
        syn.seg.window, 0,
        "no answer before the round trip is told (rule 5)"
    );
    assert_eq!(
        syn.seg.ts_val(),
        Some(130),
        "the client's own clock (rule 1)"
    );
    assert_eq!(syn.seg.opts.wscale, Some(7));
    p.b.rx(
        Port::WireHost,
        host(
            8080,
            l,
            p.k(),
            SYN | ACK,
            65_160,
            synack_opts(777, 130),
            b"",
        ),
    );
    p.link();
    let done = p.a.events();
    assert!(
        matches!(
            done[..],
            [Event::Done {
                ticket: 1,
                node: 2,
                replay: Some(Replay::FastOpen),
                ..
            }]
        ),
        "{done:?}"
    );
    let ack = p.b.told();
    assert_eq!((ack.seg.seq, ack.seg.ack), (p.k(), l.wrapping_add(1)));
    p
}

mod held;
mod outcomes;
mod replays;
