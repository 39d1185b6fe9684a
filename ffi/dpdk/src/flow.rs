//! Rules by which a device drops what it receives (`rte_flow`).

use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dpdk_sys as sys;

use crate::error::{Error, Reason};
use crate::log;
use crate::port::{Inner, Port};

/// What a rule drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Frames with this Ethernet source.
    Source([u8; 6]),
    /// TCP segments to this port that follow an untagged IPv4 header.
    TcpV4(u16),
    /// The same behind an IPv6 header without extension headers.
    TcpV6(u16),
}

/// A rule in force. It ends when it is dropped, or with its device.
pub struct DropRule {
    port: Arc<Inner>,
    raw: NonNull<sys::rte_flow>,
    counts: bool,
}

// SAFETY: the driver's handle is used under the port's lock only.
unsafe impl Send for DropRule {}

// SAFETY: as above; `hits` is the only call by reference, and it takes the lock.
unsafe impl Sync for DropRule {}

impl Port {
    /// Asks the device to drop what is received and is `what`, with a counter if
    /// it has one. Some devices must be started before.
    ///
    /// # Errors
    /// The device or its driver cannot; nothing has changed then.
    pub fn drop_rule(&self, what: Match) -> Result<DropRule, Error> {
        let (source, version, tcp) = match what {
            Match::Source(mac) => (mac, 0, 0),
            Match::TcpV4(port) => ([0; 6], 4, port),
            Match::TcpV6(port) => ([0; 6], 6, port),
        };
        let raw = sys::dts_flow_what {
            source,
            version,
            port: tcp,
        };
        let state = self.open()?;
        let mut refused = Reason::text("no such rule");
        if tcp == 0 && version != 0 {
            // Port 0 names no TCP port, and is how the shim is asked for a source.
            return Err(self.inner().fail("cannot have a rule", refused));
        }
        for counts in [true, false] {
            let mark = log::mark();
            let mut why = ptr::null();
            // SAFETY: an open port under its lock, a complete structure that is read
            // for the call, and a place for the reason.
            let flow = unsafe { sys::dts_flow_drop(self.id().0, &raw, counts, &mut why) };
            if let Some(raw) = NonNull::new(flow) {
                drop(state);
                let port = Arc::clone(self.inner());
                return Ok(DropRule { port, raw, counts });
            }
            refused = match why.is_null() {
                true => Reason::last(mark),
                // SAFETY: the drivers' messages are static NUL-terminated strings.
                false => Reason::text(unsafe { CStr::from_ptr(why) }.to_string_lossy()),
            };
        }
        Err(self.inner().fail("cannot have a rule", refused))
    }

    /// Leads RSS hashes to queues: hash `h` to queue `h % period * queues / period`.
    /// Some devices must be started before.
    ///
    /// # Errors
    /// The device has no redirection table of a multiple of `period` entries, or one
    /// above 512, or it cannot be set.
    pub fn spread(&self, period: u16, queues: u16) -> Result<(), Error> {
        let size = self.info()?.reta_size;
        if size == 0 || period == 0 || size % period != 0 {
            let text = Reason::text(format!("it has {size} entries"));
            return Err(self.inner().fail("cannot spread by hash", text));
        }
        // SAFETY: a call on a valid port; the shim makes the table.
        self.control("cannot spread by hash", |id| unsafe {
            sys::dts_eth_spread(id, size, period, queues)
        })
    }
}

impl DropRule {
    /// Frames that it has dropped, where the device counts them.
    pub fn hits(&self) -> Option<u64> {
        let state = self.port.state();
        if !self.counts || state.is_closed() {
            return None;
        }
        let mut hits = 0;
        // SAFETY: a rule of an open port under its lock, and a place for the result.
        let code = unsafe { sys::dts_flow_hits(self.port.id.0, self.raw.as_ptr(), &mut hits) };
        (code == 0).then_some(hits)
    }
}

impl Drop for DropRule {
    fn drop(&mut self) {
        let state = self.port.state();
        // A driver has freed all rules when its device is closed.
        if !state.is_closed() {
            // SAFETY: a rule of an open port under its lock, used by nobody after.
            // There is nobody to report to; closing the device ends the rule too.
            unsafe { sys::dts_flow_destroy(self.port.id.0, self.raw.as_ptr()) };
        }
    }
}
