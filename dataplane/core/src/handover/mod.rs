//! The handover of a live connection (PROTOCOL, section 4).
//!
//! [`source`] asks, freezes, splices, forwards and buries; [`dest`] replays,
//! accepts and cuts over; [`message`] carries what they say to each other;
//! [`paper`] speaks the paper's bare form; [`answers`] remembers outcomes;
//! [`before`], what a node knows of a flow that comes back to it; [`repeat`] repeats what a
//! dead destination took. A
//! handover of a node to itself runs both ends on one FCB, its messages looped
//! back inside the worker.

pub mod answers;
pub mod before;
mod cutover;
pub mod dest;
mod ends;
mod gather;
pub mod message;
pub mod paper;
mod paper_source;
pub mod ports;
pub(crate) mod repeat;
pub(crate) mod replay;
mod round_trip;
pub mod source;
