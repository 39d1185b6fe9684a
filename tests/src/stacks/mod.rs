//! Handed over connections beside direct ones: the same client stack, the same server,
//! the same impairment, the same seed, at the same time.
//!
//! *Direct* is a connection to node 2's own wire address and port 8080, where the same
//! server program listens without Fast Open. Its frames take the same way: the client's
//! cable with the relay in it, the switch, node 2's data plane (which passes them
//! between wire and host twin untranslated), node 2's stack. The *service* connection is
//! accepted by node 1 and handed over to node 2's server on port 80.

pub mod bed;
pub mod http;
pub mod matrix;
pub mod rtt;
pub mod stats;
pub mod summary;

use serde::{Deserialize, Serialize};

/// Which of a pair a connection is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To the VIP, handed over.
    #[default]
    Service,
    /// To node 2's own address.
    Direct,
}

/// A connection as its client saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Which of the pair.
    pub way: Way,
    /// The client's port.
    pub port: u16,
    /// What went wrong; empty if nothing.
    pub error: String,
    /// HTTP status.
    pub status: u16,
    /// Who answered.
    pub node: String,
    /// The server got the bytes that were sent, by its SHA-256.
    pub up_equal: bool,
    /// The answer's body has the SHA-256 that it should have.
    pub down_equal: bool,
    /// Time of the handshake, milliseconds (0 where the first write makes it).
    pub connect_ms: f64,
    /// From the request to the first byte of the answer, milliseconds.
    pub first_byte_ms: f64,
    /// From the start of the handshake to the answer's last byte, milliseconds.
    pub total_ms: f64,
    /// The client socket's smoothed round-trip time, microseconds; 0: not asked.
    pub srtt_us: u32,
}

/// A connection as its server's stack saw it, when the client had closed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    /// The client's port.
    pub port: u16,
    /// The server's port.
    pub at: u16,
    /// What went wrong; empty if nothing.
    pub error: String,
    /// TCP_INFO: smoothed round-trip time, microseconds.
    pub srtt_us: u32,
    /// TCP_INFO: smallest round-trip time, microseconds.
    pub min_rtt_us: u32,
    /// TCP_INFO: segments sent again.
    pub total_retrans: u32,
    /// Timestamps in use.
    pub timestamps: bool,
    /// SACK in use.
    pub sack: bool,
    /// Window scaling in use.
    pub wscale: bool,
    /// ECN in use.
    pub ecn: bool,
}

/// Puts this program and all that it starts ahead of whatever else runs on the machine:
/// a lab that waits for a core measures that.
///
/// # Errors
/// The privilege is missing.
pub fn ahead_of_others() -> Result<(), String> {
    let pid = std::process::id().to_string();
    let done = std::process::Command::new("renice")
        .args(["-n", "-10", "-p", &pid])
        .output()
        .map_err(|e| format!("renice: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&done.stderr).into_owned())
}
