//! Makes views of what the members agree on, and publishes them to the workers. A thread of
//! its own: tables of many members take longer than the membership protocol may sleep.

use crate::snapshot::{self, Plan};
use crate::threads;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dts_core::ownership::BucketTable;
use dts_core::view::View;
use dts_membership::{Agreed, Seen};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a node goes on answering for buckets that it gives away: until the new owners
/// know. Two answers are harmless, none costs the client a second.
pub const OVERLAP: Duration = Duration::from_millis(300);

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

/// The tables of a view: the general one and each service's.
type Tables = (Arc<BucketTable>, Vec<Arc<BucketTable>>);

fn tables(view: &View) -> Tables {
    let services = view.services.iter().map(|s| Arc::clone(&s.buckets));
    (Arc::clone(&view.general), services.collect())
}

fn put_tables(view: &mut View, (general, services): Tables) {
    view.general = general;
    for (service, buckets) in view.services.iter_mut().zip(services) {
        service.buckets = buckets;
    }
}

/// The tables of `view`, with what this node owned `before`.
fn overlapping(view: &View, before: &View) -> Tables {
    let keep = |new: &Arc<BucketTable>, old: &Arc<BucketTable>| {
        if Arc::ptr_eq(new, old) {
            return Arc::clone(new);
        }
        Arc::new(new.keeping(view.node, old))
    };
    let services = view.services.iter().zip(&before.services);
    let services = services.map(|(new, old)| keep(&new.buckets, &old.buckets));
    (keep(&view.general, &before.general), services.collect())
}

/// What the thread knows.
struct Desktop<'a> {
    plan: &'a Plan,
    views: &'a ArcSwap<View>,
    owners_of: Option<Agreed>,
    /// The tables without what was kept, and when they hold.
    later: Option<(Tables, Instant)>,
}

impl Desktop<'_> {
    fn publish(&mut self, (members, agreed, owners): News) {
        let before = self.views.load_full();
        let new_owners = owners && self.owners_of.as_ref() != Some(&agreed);
        let mut view = snapshot::next(&before, self.plan, &members, &agreed, new_owners);
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
            self.owners_of = Some(agreed);
            self.later = Some((tables(&view), Instant::now() + OVERLAP));
            let overlap = overlapping(&view, &before);
            put_tables(&mut view, overlap);
        }
        self.views.store(Arc::new(view));
    }

    /// Gives away what was kept, when it is time.
    fn let_go(&mut self) {
        let due = |(_, at): &mut (Tables, Instant)| Instant::now() >= *at;
        if let Some((tables, _)) = self.later.take_if(due) {
            let mut view = View::clone(&self.views.load());
            put_tables(&mut view, tables);
            self.views.store(Arc::new(view));
        }
    }
}

fn run(plan: &Plan, views: &ArcSwap<View>, desk: &Desk, bell: &Receiver<()>) {
    let mut top = Desktop {
        plan,
        views,
        owners_of: None,
        later: None,
    };
    let mut open = true;
    while open {
        open = match &top.later {
            None => bell.recv().is_ok(),
            Some((_, at)) => bell.recv_deadline(*at) != Err(RecvTimeoutError::Disconnected),
        };
        let news = desk.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(news) = news {
            top.publish(news);
        }
        top.let_go();
    }
}
