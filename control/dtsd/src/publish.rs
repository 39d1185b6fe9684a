//! Makes views of what the members agree on, and publishes them to the workers. A thread of
//! its own: tables of many members take longer than the membership protocol may sleep.

use crate::snapshot::{self, Plan};
use crate::threads;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use dts_core::view::View;
use dts_membership::{Agreed, Seen};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

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
        let body = move || run(&plan, &views, &own, &ear);
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

fn run(plan: &Plan, views: &ArcSwap<View>, desk: &Desk, bell: &Receiver<()>) {
    let mut owners_of: Option<Agreed> = None;
    let publish = |owners_of: &mut Option<Agreed>| {
        let news = desk.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((members, agreed, owners)) = news else {
            return;
        };
        let before = views.load_full();
        let new_owners = owners && owners_of.as_ref() != Some(&agreed);
        let view = snapshot::next(&before, plan, &members, &agreed, new_owners);
        for m in view.members.iter().filter(|m| !before.members.contains(m)) {
            let state = crate::fleet_metrics::peer_state(m);
            tracing::info!(node = m.id, state, "member");
        }
        if new_owners {
            tracing::info!(
                members = agreed.parts.len(),
                minority = agreed.minority,
                "owners"
            );
            *owners_of = Some(agreed);
        }
        views.store(Arc::new(view));
    };
    while bell.recv().is_ok() {
        publish(&mut owners_of);
    }
    publish(&mut owners_of);
}
