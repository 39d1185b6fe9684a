//! SWIM as `foca` does it, and what it wants done.

use crate::identity::{Codec, Identity};
use crate::types::{Settings, Time};
use foca::{Foca, NoCustomBroadcast, Notification, Runtime, Timer};
use rand::rngs::SmallRng;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// Longest message of SWIM, bytes: room for the state of more than 50 members.
const SWIM_MAX: usize = 900;
/// Members who are asked to try in this one's place, and to whom news goes on.
const FAN_OUT: usize = 3;
/// Times that a piece of SWIM's news is told.
const TELLINGS: u8 = 10;
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) at: Time,
    pub(crate) timer: Timer<Identity>,
}

/// What foca wants done, until it has returned.
pub(crate) struct Sink<'a> {
    pub(crate) now: Time,
    pub(crate) sends: Vec<(u16, Vec<u8>)>,
    pub(crate) timers: &'a mut Vec<Due>,
    pub(crate) news: bool,
    pub(crate) rejoined: bool,
    pub(crate) connected: &'a mut bool,
}

impl Runtime<Identity> for Sink<'_> {
    fn notify(&mut self, n: Notification<'_, Identity>) {
        match n {
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => {
                self.news = true
            }
            Notification::Active => *self.connected = true,
            Notification::Idle | Notification::Defunct => *self.connected = false,
            Notification::Rejoin(_) => {
                self.rejoined = true;
                *self.connected = false;
            }
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        let at = self.now + after;
        self.timers.push(Due { at, timer });
    }
}

/// SWIM, seen from one node.
pub(crate) type Swim = Foca<Identity, Codec, SmallRng, NoCustomBroadcast>;

/// The protocol's parameters.
pub(crate) fn config(s: &Settings) -> foca::Config {
    const FAN: NonZeroUsize = NonZeroUsize::new(FAN_OUT).unwrap();
    const MOST: NonZeroUsize = NonZeroUsize::new(SWIM_MAX).unwrap();
    const TELL: NonZeroU8 = NonZeroU8::new(TELLINGS).unwrap();
    foca::Config {
        probe_period: s.probe,
        probe_rtt: s.answer,
        num_indirect_probes: FAN,
        max_transmissions: TELL,
        suspect_to_down_after: s.suspect,
        // There are no more of them than configured members.
        remove_down_after: None,
        max_packet_size: MOST,
        // See `tell_the_dead`.
        notify_down_members: false,
        // Who is not there is known by the configuration: see `announce`.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(foca::PeriodicParams {
            frequency: s.probe,
            num_members: FAN,
        }),
    }
}
