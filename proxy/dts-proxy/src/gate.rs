//! The router with a clock, randomness and connections that wait.

use crate::config::Config;
use crate::policy::Request;
use crate::router::{Among, Choice, Router};
use crate::rules::Route;
use crate::serve::Counters;
use dts_proto::rpc::Node;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Why a connection gets no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMember {
    /// All that are healthy have as many connections as they may.
    #[error("no member has room")]
    Full,
    /// None is healthy, or all have been asked.
    #[error("no healthy member is left")]
    Nobody,
}

type Told = Result<Place, NoMember>;
type Guard<'a> = MutexGuard<'a, Router<oneshot::Sender<Told>>>;

/// Gives connections their members.
pub struct Gate {
    config: Arc<Config>,
    router: Mutex<Router<oneshot::Sender<Told>>>,
    counters: Arc<Counters>,
    start: Instant,
    random: RandomState,
}

/// One more, until this is dropped.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place at a member, from the decision until the handover has ended.
pub struct Place {
    gate: Arc<Gate>,
    /// The member.
    pub to: SocketAddr,
    moved: bool,
}

impl Place {
    /// The member has the connection.
    pub fn moved(mut self) {
        self.moved = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = self.gate.now();
        self.gate.counters.under_way.fetch_sub(1, Ordering::Relaxed);
        self.gate.lock().end(self.to, self.moved, now);
        if !self.moved {
            self.gate.admit();
        }
    }
}

impl Gate {
    /// A gate before which nobody waits.
    #[must_use]
    pub fn new(config: Arc<Config>, counters: Arc<Counters>) -> Self {
        let random = RandomState::new();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random.hash_one("low").to_ne_bytes());
        key[8..].copy_from_slice(&random.hash_one("high").to_ne_bytes());
        Self {
            router: Mutex::new(Router::new(Arc::clone(&config), key)),
            config,
            counters,
            start: Instant::now(),
            random,
        }
    }

    fn lock(&self) -> Guard<'_> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// What the daemon has said of the nodes.
    pub fn tell(self: &Arc<Self>, nodes: Vec<Node>) {
        let now = self.now();
        self.lock().tell(nodes, now);
        self.admit();
    }

    /// Lets in whom it can of those who wait.
    fn admit(self: &Arc<Self>) {
        let now = self.now();
        let draw = self.random.hash_one(now.as_nanos());
        let admitted = self.lock().admit(now, draw);
        // Outside of the lock: a place that nobody takes any more is given back here.
        for (who, choice) in admitted {
            let told = self.told(choice);
            drop(who.send(told));
        }
    }

    fn told(self: &Arc<Self>, choice: Choice) -> Told {
        match choice {
            Choice::Member(to) => {
                self.counters.under_way.fetch_add(1, Ordering::Relaxed);
                Ok(Place {
                    gate: Arc::clone(self),
                    to,
                    moved: false,
                })
            }
            Choice::Full => Err(NoMember::Full),
            Choice::Nobody => Err(NoMember::Nobody),
        }
    }

    /// The first member for a connection; may wait as long as its pool allows.
    ///
    /// # Errors
    /// See [`NoMember`].
    pub async fn enter(
        self: &Arc<Self>,
        route: Route,
        request: &Request,
        draw: u64,
    ) -> Result<Place, NoMember> {
        let mut told = None;
        let choice = {
            let mut router = self.lock();
            let now = self.now();
            let mut choose =
                |patient| router.choose(route, request, &[], Among::All, patient, now, draw);
            let first = choose(true);
            if first == Choice::Full {
                let (tell, hear) = oneshot::channel();
                match router.wait(route, request.clone(), tell) {
                    Ok(number) => told = Some((hear, number)),
                    Err(_) => return self.leave(router, route, request, draw),
                }
            }
            first
        };
        let Some((mut told, number)) = told else {
            return self.told(choice);
        };
        let _waiting = Counted::new(&self.counters.waiting);
        let patience = self.config.pools[route.pool].queue_timeout;
        if let Ok(Ok(told)) = timeout(patience, &mut told).await {
            return told;
        }
        {
            let mut router = self.lock();
            if router.give_up(route.pool, number) {
                return self.leave(router, route, request, draw);
            }
        }
        // Somebody has just let it in.
        told.await.unwrap_or(Err(NoMember::Full))
    }

    /// For one that does not wait, or does so no more.
    fn leave(
        self: &Arc<Self>,
        mut router: Guard<'_>,
        route: Route,
        request: &Request,
        draw: u64,
    ) -> Told {
        let now = self.now();
        let choice = router.choose(route, request, &[], Among::All, false, now, draw);
        drop(router);
        self.told(choice)
    }

    /// Another member for a connection that the `tried` ones did not take: up to
    /// `retries` of them, then those of this node. Does not wait.
    ///
    /// # Errors
    /// See [`NoMember`].
    pub fn again(
        self: &Arc<Self>,
        route: Route,
        request: &Request,
        tried: &[SocketAddr],
        draw: u64,
    ) -> Result<Place, NoMember> {
        let among = match tried.len() > self.config.retries {
            true => Among::Local,
            false => Among::All,
        };
        let now = self.now();
        let choice = self
            .lock()
            .choose(route, request, tried, among, false, now, draw);
        self.told(choice)
    }
}
