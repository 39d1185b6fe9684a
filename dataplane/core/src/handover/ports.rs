//! Source ports of splice connections. A worker owns every port whose offset in
//! the range is its number modulo the number of workers, so that answers find
//! it; a port rests after use.

use std::collections::VecDeque;

/// One worker's ports.
#[derive(Debug)]
pub struct SplicePorts {
    free: VecDeque<u16>,
    used: hashbrown::HashMap<u16, u32>,
}

impl SplicePorts {
    /// The share of `worker` of `workers` in the range, both ends included.
    pub fn new((first, last): (u16, u16), worker: usize, workers: usize) -> Self {
        let free = (first..=last)
            .filter(|p| usize::from(p - first) % workers == worker)
            .collect();
        Self {
            free,
            used: hashbrown::HashMap::new(),
        }
    }

    /// The port that rested longest, for the handover of `slot`.
    pub fn take(&mut self, slot: u32) -> Option<u16> {
        let p = self.free.pop_front()?;
        self.used.insert(p, slot);
        Some(p)
    }

    /// The slot that uses `port`.
    pub fn slot(&self, port: u16) -> Option<u32> {
        self.used.get(&port).copied()
    }

    /// Ends the use of `port`, if there was one; it is last in the queue then.
    pub fn give_back(&mut self, port: Option<u16>) {
        if let Some(p) = port
            && self.used.remove(&p).is_some()
        {
            self.free.push_back(p);
        }
    }
}
