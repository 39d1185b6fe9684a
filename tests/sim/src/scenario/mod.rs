//! The families of scenarios. A seed picks one and its numbers; `--scenario` forces one.
//!
//! A new family is a line in `families!` and an arm in [`Family::shape`], which changes
//! a plan of one undisturbed handover into what the family is about.

mod attacks;
mod client;
mod handover;
mod network;
mod nodes;
mod rules;
mod split;

use crate::plan::Plan;
use crate::rng::Rng;
use dts_proto::block::Kind;
use std::net::{Ipv6Addr, SocketAddr};

macro_rules! families {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A family of scenarios.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Family { $($(#[doc = $doc])* $variant,)* }

        impl Family {
            /// Every family.
            pub const ALL: &'static [Family] = &[$(Family::$variant,)*];
            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Family::$variant => $name,)* }
            }
            /// What it is about.
            pub fn about(self) -> &'static str {
                match self { $(Family::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

families! {
    /// One handover, nothing odd: any client, any options.
    Plain = "plain",
    /// A handover at every byte offset of a request.
    Offsets = "offsets",
    /// Numbers next to 2^31 and 2^32, clocks next to their wrap.
    Numbers = "numbers",
    /// Options on and off on either side, window shifts 0 to 14, MSS 536 to 8960.
    Options = "options",
    /// Handshake replay.
    Handshake = "handshake",
    /// Requests of many segments, up to the first window.
    Large = "large",
    /// Pipelined data and bodies that stream in during the handover.
    Pipelined = "pipelined",
    /// A handover of a node to itself.
    Itself = "itself",
    /// Refusals, and another node after them.
    Refusals = "refusals",
    /// The client closes its side before, at and behind the cut.
    HalfClose = "half-close",
    /// Slow readers, small buffers, slow applications.
    Slow = "slow",
    /// Keepalives, RSTs, probes, repeated SYNs of the client at each step.
    ClientActs = "client-acts",
    /// Out-of-order data that is SACKed already at the freeze.
    Sacked = "sacked",
    /// A daemon that drains less than it should.
    ShortDrain = "short-drain",
    /// A client whose host starts anew and uses its port again while the old flow lives.
    Reopen = "reopen",
    /// More segments in the handover than a flow may have held.
    HoldCap = "hold-cap",
    /// The 4-tuple again, while the old sockets are in TIME_WAIT.
    Reuse = "reuse",
    /// Each link message lost, repeated or late.
    Steps = "steps",
    /// Loss, repetition, reordering, damage and jitter on the wire.
    Noise = "noise",
    /// The same on the link.
    LinkNoise = "link-noise",
    /// The link cut for a while at each step.
    Partition = "partition",
    /// The destination dies at each step, and may come back.
    DestDies = "dest-dies",
    /// The source dies at each step, and may come back.
    SourceDies = "source-dies",
    /// The application dies.
    AppDies = "app-dies",
    /// Two nodes take themselves for the owner.
    Ownership = "ownership",
    /// Forged, replayed and foreign segments on wire and link.
    Attacks = "attacks",
    /// ICMP errors about the flow.
    Icmp = "icmp",
    /// Several clients at once, owners by hash.
    Many = "many",
    /// The flow is handed on by the application that serves it, and back.
    Again = "again",
    /// Rules that no stack's traffic touches: urgent data, storms, fragments, caps of a
    /// worker, keys that change, sockets that vanish, neighbour discovery.
    Rules = "rules",
    /// The destination dies before it answers, and the handover is repeated.
    Repeat = "repeat",
    /// Nodes find out by themselves who is there, while link and wire fall apart and heal,
    /// nodes die, start anew, stand still and are drained.
    Split = "split",
}

impl Family {
    /// The family of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }

    /// Makes a plain plan one of this family.
    pub fn shape(self, p: &mut Plan, r: &mut Rng) {
        match self {
            Family::Plain => handover::plain(p, r),
            Family::Offsets => handover::offsets(p, r),
            Family::Numbers => handover::numbers(p, r),
            Family::Options => handover::options(p, r),
            Family::Handshake => handover::handshake(p, r),
            Family::Large => handover::large(p, r),
            Family::Pipelined => handover::pipelined(p, r),
            Family::Itself => handover::itself(p, r),
            Family::Refusals => handover::refusals(p, r),
            Family::HalfClose => client::half_close(p, r),
            Family::Slow => client::slow(p, r),
            Family::ClientActs => client::acts(p, r),
            Family::Sacked => client::sacked(p, r),
            Family::ShortDrain => client::short_drain(p, r),
            Family::Reopen => client::reopen(p, r),
            Family::HoldCap => client::hold_cap(p, r),
            Family::Reuse => client::reuse(p, r),
            Family::Steps => network::steps(p, r),
            Family::Noise => network::noise(p, r),
            Family::LinkNoise => network::link_noise(p, r),
            Family::Partition => network::partition(p, r),
            Family::DestDies => nodes::dest_dies(p, r),
            Family::SourceDies => nodes::source_dies(p, r),
            Family::AppDies => nodes::app_dies(p, r),
            Family::Ownership => nodes::ownership(p, r),
            Family::Attacks => attacks::attacks(p, r),
            Family::Icmp => attacks::icmp(p, r),
            Family::Many => nodes::many(p, r),
            Family::Again => handover::again(p, r),
            Family::Rules => rules::rules(p, r),
            Family::Repeat => nodes::repeat(p, r),
            Family::Split => split::split(p, r),
        }
    }
}

/// The kind of a link message, if a frame is one.
pub fn link_kind(frame: &[u8]) -> Option<Kind> {
    let s = crate::seg::Seg::of_frame(frame)?;
    let b = &s.payload;
    if b.len() < dts_proto::block::FIXED_LEN || b[..2] != dts_proto::block::MAGIC.to_be_bytes() {
        return None;
    }
    KINDS.iter().copied().find(|k| *k as u8 == b[3])
}

/// The client that a link message is about.
pub fn client_of(frame: &[u8]) -> Option<SocketAddr> {
    let s = crate::seg::Seg::of_frame(frame)?;
    let b = s.payload.get(..dts_proto::block::FIXED_LEN)?;
    let mut ip = [0; 16];
    ip.copy_from_slice(&b[60..76]);
    let port = u16::from_be_bytes([b[54], b[55]]);
    Some(SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port))
}

/// Every kind of link message.
pub const KINDS: [Kind; 14] = [
    Kind::Splice,
    Kind::Accept,
    Kind::Refuse,
    Kind::Continue,
    Kind::Data,
    Kind::Forward,
    Kind::EndMark,
    Kind::EndAck,
    Kind::Abort,
    Kind::Aborted,
    Kind::FlowEnd,
    Kind::Who,
    Kind::Mine,
    Kind::NotMine,
];
