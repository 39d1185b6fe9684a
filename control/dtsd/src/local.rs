//! What this node itself knows of flows and of its own state, for whoever asks: an operator
//! here, or another member's daemon.

use crate::ask::{Answer, Count, Entry, Facts, FlowReport, Question, Refusals};
use crate::members::{Handle, Roster};
use crate::metrics::MemberMetrics;
use crate::plane::{self, Dispatcher, Plane};
use crate::threads;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use dts_core::key::FlowKey;
use dts_core::view::View;
use dts_membership::{Asked, Refused};
use dts_worker::WorkerSnapshot;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a worker may take to look a flow up.
const PATIENCE: Duration = Duration::from_millis(500);
/// Questions of other members that wait. They come again.
const WAITING: usize = 16;

/// Everything to be looked at.
pub struct Local {
    /// What the workers go by.
    pub views: Arc<ArcSwap<View>>,
    /// The workers.
    pub plane: Arc<dyn Plane>,
    /// Where their answers arrive.
    pub dispatcher: Arc<Dispatcher>,
    /// Messages of the membership, by result.
    pub metrics: Arc<MemberMetrics>,
    /// Faults of layer 2.
    pub layer2: Arc<Layer2>,
}

/// Since `then`, in whole seconds.
fn age_s(then: Instant) -> u32 {
    u32::try_from(then.elapsed().as_secs()).unwrap_or(u32::MAX)
}

impl Local {
    /// What is known here of a flow, by a node whose view is `roster`'s; `None` where there is
    /// no such service. Takes as long as a worker takes.
    #[must_use]
    pub fn flow(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        roster: Option<&Roster>,
    ) -> Option<FlowReport> {
        let key = FlowKey::new(client, vip);
        let view = self.views.load_full();
        let service = &view.services[view.service(&key.vip, key.port)?];
        let entry = match plane::find(&*self.plane, &self.dispatcher, key, PATIENCE) {
            Err(plane::Silent) => Entry::Silent,
            Ok(None) => Entry::None,
            Ok(Some(found)) => Entry::Fcb {
                state: found.state.name().to_owned(),
                from: found.from,
                to: found.to,
                age_ms: found.age.as_micros() / 1000,
                idle_ms: found.idle.as_micros() / 1000,
            },
        };
        Some(FlowReport {
            epoch: roster.map_or(0, |r| r.epoch_of(view.node)),
            // At most 65,536 buckets.
            bucket: service.buckets.bucket(&key) as u32,
            owner: service.buckets.owner(&key),
            entry,
        })
    }

    /// How this node is.
    #[must_use]
    pub fn facts(&self, roster: Option<&Roster>) -> Facts {
        let refused = |why: Refused| {
            let (from, when) = self.metrics.last_refused(why)?;
            let times = Count {
                count: self.metrics.get(why.name()),
                age_s: Some(age_s(when)),
            };
            Some(Refusals::new(why, times, from))
        };
        let [vip_conflicts, cluster_mac_sources] = self.layer2.counts();
        let keys = self.views.load().keys.iter().map(|k| k.id).collect();
        Facts {
            clock_us: clock_us(),
            tcp_rmem: tcp_rmem(),
            keys,
            minority: roster.is_some_and(|r| r.agreed.minority),
            refused: Refused::ALL.into_iter().filter_map(refused).collect(),
            vip_conflicts,
            cluster_mac_sources,
        }
    }

    fn answer(&self, question: &[u8], roster: Option<&Roster>) -> Answer {
        match Question::decode(question) {
            None => Answer::Unclear,
            Some(Question::Facts) => Answer::Facts(self.facts(roster)),
            Some(Question::Flow { client, vip }) => Answer::Flow(self.flow(client, vip, roster)),
        }
    }
}

/// This node's clock, microseconds since the epoch (1970); 0 before it.
#[must_use]
pub fn clock_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

fn tcp_rmem() -> Vec<u64> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap_or_default();
    let numbers = text.split_whitespace().map_while(|n| n.parse().ok());
    numbers.take(3).collect()
}

/// When faults of layer 2 were last seen to have become more.
#[derive(Debug, Default)]
pub struct Layer2(Mutex<[(u64, Option<Instant>); 2]>);

impl Layer2 {
    /// Looks at the workers' counters; to be called often.
    pub fn look(&self, workers: &[WorkerSnapshot]) {
        let sum = |of: fn(&WorkerSnapshot) -> u64| workers.iter().map(of).sum();
        self.note(
            [
                sum(|w| w.counters.vip_conflicts),
                sum(|w| w.counters.cluster_mac_sources),
            ],
            Instant::now(),
        );
    }

    fn note(&self, counts: [u64; 2], now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((count, last), new) in known.iter_mut().zip(counts) {
            if new > *count {
                (*count, *last) = (new, Some(now));
            }
        }
    }

    /// Claims of VIPs, and frames from the cluster's address.
    #[must_use]
    pub fn counts(&self) -> [Count; 2] {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|(count, last)| Count {
            count,
            age_s: last.map(age_s),
        })
    }
}

/// The thread that answers other members' questions, which may take as long as a worker does;
/// it ends when the membership's thread has.
pub struct Answerer {
    thread: Option<JoinHandle<()>>,
}

/// Where the membership's thread leaves questions, and the other end.
#[must_use]
pub fn mailbox() -> (Sender<Asked>, Receiver<Asked>) {
    bounded(WAITING)
}

impl Answerer {
    /// Starts to answer what comes into the mailbox, by way of `members`.
    ///
    /// # Errors
    /// The process has no room for another thread.
    pub fn start(local: Arc<Local>, mail: Receiver<Asked>, members: Handle) -> io::Result<Self> {
        let body = move || {
            for asked in mail {
                let answer = local.answer(&asked.question, members.look_now().as_ref());
                members.answer(asked, answer.encode());
            }
        };
        let thread = Some(threads::spawn("dts-answers", body)?);
        Ok(Self { thread })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_layer_2_have_a_time() {
        let layer2 = Layer2::default();
        assert_eq!(layer2.counts(), [Count::default(); 2]);
        let now = Instant::now();
        let then = now.checked_sub(Duration::from_secs(7)).unwrap();
        layer2.note([0, 5], then);
        layer2.note([1, 5], now);
        let count = |count, age_s| Count {
            count,
            age_s: Some(age_s),
        };
        assert_eq!(layer2.counts(), [count(1, 0), count(5, 7)]);
    }

    #[test]
    fn the_receive_buffers_are_read() {
        let rmem = tcp_rmem();
        assert!(
            rmem.len() == 3 && rmem[0] <= rmem[1] && rmem[1] <= rmem[2],
            "{rmem:?}"
        );
    }
}
