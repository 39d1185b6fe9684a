//! Makes views of what the members agree on, and publishes them to the workers. A thread of
//! its own: tables of many members take longer than the membership protocol may sleep.

use crate::threads;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dts_core::view::View;
use dts_membership::{Agreed, Seen};
use dts_owners::{Follower, Plan};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// What is to be published: members, view, and whether owners follow it.
type News = (Vec<Seen>, Agreed, bool);

/// The newest news that nobody has looked at.
type Desk = Arc<Mutex<Option<News>>>;

/// The running thread; dropping this ends it, when all is published.
pub struct Publisher {
    desk: Desk,
    bell: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Starts to publish to `views`; nobody else may from now on.
    ///
    /// # Errors
    /// The process has no room for another thread.
    pub fn start(plan: Plan, views: Arc<ArcSwap<View>>) -> io::Result<Self> {
        let desk = Desk::default();
        let (bell, ear) = bounded(1);
        let own = Arc::clone(&desk);
        let body = move || run(plan, &views, &own, &ear);
        Ok(Self {
            desk,
            bell: Some(bell),
            thread: Some(threads::spawn("dts-view", body)?),
        })
    }

    /// Lets a view follow; owners change with it if `owners` says so. Returns at once; a
    /// view that is overtaken by the next one is never made.
    pub fn publish(&self, members: Vec<Seen>, agreed: Agreed, owners: bool) {
        let news = Some((members, agreed, owners));
        *self.desk.lock().unwrap_or_else(PoisonError::into_inner) = news;
        if let Some(bell) = &self.bell {
            // Full: it has been rung already.
            let _ = bell.try_send(());
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

/// What the thread knows.
struct Desktop<'a> {
    follower: Follower,
    views: &'a ArcSwap<View>,
    start: Instant,
}

impl Desktop<'_> {
    fn publish(&mut self, (members, agreed, owners): News) {
        let before = self.views.load_full();
        let now = self.start.elapsed();
        let view = (self.follower).follow(&before, &members, &agreed, owners, now);
        for m in view.members.iter().filter(|m| !before.members.contains(m)) {
            let state = crate::fleet_metrics::peer_state(m);
            tracing::info!(node = m.id, state, "member");
        }
        if !Arc::ptr_eq(&view.general, &before.general) {
            tracing::info!(
                members = agreed.parts.len(),
                minority = agreed.minority,
                "owners"
            );
        }
        self.views.store(Arc::new(view));
    }

    /// Gives away what was kept, when it is time.
    fn let_go(&mut self) {
        let now = self.start.elapsed();
        if let Some(view) = self.follower.let_go(&self.views.load(), now) {
            self.views.store(Arc::new(view));
        }
    }
}

fn run(plan: Plan, views: &ArcSwap<View>, desk: &Desk, bell: &Receiver<()>) {
    let mut top = Desktop {
        follower: Follower::new(plan),
        views,
        start: Instant::now(),
    };
    let mut open = true;
    while open {
        open = match top.follower.due() {
            None => bell.recv().is_ok(),
            Some(at) => bell.recv_deadline(top.start + at) != Err(RecvTimeoutError::Disconnected),
        };
        let news = desk.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(news) = news {
            top.publish(news);
        }
        top.let_go();
    }
}
