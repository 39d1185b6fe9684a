//! Sleeping until packets wait or somebody calls.
//!
//! A polling thread that has found nothing for a while sleeps in [`Waiter::wait`]. It
//! is woken by a TAP's or a raw socket's descriptor, by a [`Waker`], or by a signal.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};
use std::time::Duration;

use crate::port::DevInfo;
use crate::queue::RxQueue;

/// What the waker and the waiter share.
struct Call {
    event: OwnedFd,
    asleep: AtomicBool,
}

/// Ends the sleep of one [`Waiter`].
#[derive(Clone)]
pub struct Waker(Arc<Call>);

impl Waker {
    /// Call it after the waiter has been given something to do. It costs a system
    /// call only where the waiter sleeps.
    pub fn wake(&self) {
        // What was given before this is seen by a waiter that is not asleep yet.
        fence(SeqCst);
        if self.0.asleep.load(SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the buffer is valid for its length. The counter cannot overflow
            // in practice, and if it is full the waiter is awake already.
            unsafe { libc::write(self.0.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

/// What one thread sleeps on.
pub struct Waiter {
    call: Arc<Call>,
    /// Copies of the queues' descriptors, which keep those open.
    watched: Vec<OwnedFd>,
    polled: Vec<libc::pollfd>,
}

impl Waiter {
    /// A waiter that watches nothing yet, and what wakes it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<(Self, Waker)> {
        // SAFETY: no pointer is passed.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let polled = vec![readable(&event)];
        let call = Arc::new(Call {
            event,
            asleep: AtomicBool::new(false),
        });
        let waker = Waker(Arc::clone(&call));
        let watched = Vec::new();
        Ok((
            Self {
                call,
                watched,
                polled,
            },
            waker,
        ))
    }

    /// Watches a queue of a started port with this information. False where its
    /// driver has nothing that can be watched: it must be polled.
    pub fn watch(&mut self, queue: &RxQueue, info: &DevInfo) -> bool {
        let fd = match info.driver.as_str() {
            "net_tap" => queue.event_fd().and_then(|fd| duplicate(fd).ok()),
            "net_af_packet" => info
                .if_index
                .and_then(|index| packet_socket(index, queue.queue().into())),
            _ => None,
        };
        let Some(fd) = fd else { return false };
        self.polled.push(readable(&fd));
        self.watched.push(fd);
        true
    }

    /// Sleeps, at most for `longest`, if `idle` still holds now that wakers know.
    pub fn wait(&mut self, longest: Duration, idle: impl FnOnce() -> bool) {
        self.call.asleep.store(true, SeqCst);
        fence(SeqCst);
        if idle() {
            let timeout = libc::timespec {
                tv_sec: longest.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: longest.subsec_nanos().into(),
            };
            // SAFETY: the array and the timeout are valid for the call. Whatever ends
            // it, the caller looks at everything anew.
            let n = unsafe {
                let count = self.polled.len() as libc::nfds_t;
                libc::ppoll(self.polled.as_mut_ptr(), count, &timeout, std::ptr::null())
            };
            if n > 0 && self.polled[0].revents != 0 {
                let mut count = [0u8; 8];
                // SAFETY: the buffer is valid for its length; the descriptor does not
                // block.
                unsafe { libc::read(self.polled[0].fd, count.as_mut_ptr().cast(), count.len()) };
            }
        }
        self.call.asleep.store(false, SeqCst);
    }
}

fn readable(fd: &OwnedFd) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed; a number that is no descriptor gives an error.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })
}

/// The raw socket of a receive queue on a kernel interface. The driver does not tell
/// it, so it is looked for: its sockets on one interface are as many as queues, opened
/// in their order.
fn packet_socket(if_index: u32, queue: usize) -> Option<OwnedFd> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    let numbers = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let mut sockets: Vec<RawFd> = numbers.filter(|&fd| is_bound_to(fd, if_index)).collect();
    sockets.sort_unstable();
    duplicate(*sockets.get(queue)?).ok()
}

fn is_bound_to(fd: RawFd, if_index: u32) -> bool {
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes `len` bytes at most; no socket gives an error.
    let code = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) };
    code == 0
        && i32::from(address.sll_family) == libc::AF_PACKET
        && u32::try_from(address.sll_ifindex) == Ok(if_index)
        && address.sll_protocol == (libc::ETH_P_ALL as u16).to_be()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_waker_ends_the_sleep_and_only_that_one() {
        let (mut waiter, waker) = Waiter::new().unwrap();
        // Nobody sleeps: nothing is left behind that would end the next sleep.
        waker.wake();
        let start = Instant::now();
        waiter.wait(Duration::from_millis(20), || true);
        assert!(start.elapsed() >= Duration::from_millis(20));
        let asleep = Arc::clone(&waiter.call);
        let thread = thread::spawn(move || {
            while !asleep.asleep.load(SeqCst) {
                thread::yield_now();
            }
            waker.wake();
        });
        let start = Instant::now();
        waiter.wait(LONG, || true);
        assert!(start.elapsed() < LONG);
        thread.join().unwrap();
        let start = Instant::now();
        waiter.wait(Duration::from_millis(20), || true);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn work_that_came_before_the_sleep_prevents_it() {
        let (mut waiter, _waker) = Waiter::new().unwrap();
        let start = Instant::now();
        waiter.wait(LONG, || false);
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn other_descriptors_are_no_packet_sockets() {
        assert!(packet_socket(1, 0).is_none());
    }
}
