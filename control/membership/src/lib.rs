//! Who is a member of the cluster, and in what state.
//!
//! [`Membership`] is SWIM (Das, Gupta, Motivala 2002; the `foca` crate) with a
//! [`Record`] of each node beside it, over datagrams that the cluster key authenticates
//! ([`envelope`]). It has no socket, no clock and no random source of its own: time is
//! an argument, and a seed starts its random numbers, so that a run can be repeated.
//!
//! What all nodes that hear of each other come to see alike is an [`Agreed`] view: who
//! owns new connections of a service, who may be handed some, and a digest of it all,
//! the epoch.

mod agreed;
mod body;
pub mod envelope;
mod identity;
mod membership;
mod record;
mod schedule;
mod swim;
mod types;

pub use agreed::{Agreed, Part, Share, Standing};
pub use envelope::Refused;
pub use identity::Identity;
pub use membership::Membership;
pub use record::{Record, RecordError, State, TcpCaps, Version};
pub use schedule::{FULL, LEAST, Schedule, Stamp};
pub use types::{Asked, Datagram, Liveness, Outcome, Peer, Seen, Settings, Time, Wish, WishError};
