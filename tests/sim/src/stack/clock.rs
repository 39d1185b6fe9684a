//! smoltcp asks a plain function for its timestamps, so the virtual clock is also
//! in a thread-local; every run sets it before it lets a stack run.

use smoltcp::time::Instant;
use std::cell::Cell;

thread_local! {
    static MILLIS: Cell<u32> = const { Cell::new(0) };
}

/// Sets the clock of this thread, nanoseconds.
pub fn set(now: u64) {
    MILLIS.set((now / 1_000_000) as u32);
}

/// Milliseconds, modulo 2^32.
pub fn tsval() -> u32 {
    MILLIS.get()
}

/// Nanoseconds as smoltcp has them; never zero, which smoltcp takes for "now".
pub fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}
