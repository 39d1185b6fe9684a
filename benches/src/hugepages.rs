//! Hugepages for the time of a benchmark.

use std::fs;
use std::path::Path;

const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Pages that were set aside, and go back with this value.
#[derive(Debug)]
pub struct Reserved {
    added: u64,
}

impl Reserved {
    /// Sets `megabytes` aside; `None` where the kernel has none to give, and both
    /// sides of a comparison then do without.
    #[must_use]
    pub fn new(megabytes: u64) -> Option<Self> {
        // Each process rounds up.
        let want = megabytes.div_ceil(2) + 16;
        // What is free already may be what another program has set aside.
        let total = read(COUNT)?;
        fs::write(COUNT, (total + want).to_string()).ok()?;
        // The kernel gives as many as it has, and says so only here.
        let added = read(COUNT)?.saturating_sub(total);
        let this = Self { added };
        (added >= want).then_some(this)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(total) = read(COUNT) {
            // What cannot be given back now is free for others all the same.
            let _ = fs::write(COUNT, total.saturating_sub(self.added).to_string());
        }
    }
}

fn read(path: &str) -> Option<u64> {
    fs::read_to_string(Path::new(path))
        .ok()?
        .trim()
        .parse()
        .ok()
}
