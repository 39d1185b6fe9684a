//! What the lab's client program reports, and the bytes that it uploads.

use serde::{Deserialize, Serialize};

/// How one connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A whole answer came.
    Answered,
    /// RST after the handshake.
    Reset,
    /// The server closed before its answer was whole.
    Closed,
    /// No answer within the client's time-out: it hung.
    Hung,
    /// No connection.
    NotConnected,
    /// Anything else; see [`Connection::note`].
    Failed,
}

/// One connection with one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// The request's path.
    pub path: String,
    /// When it was begun, seconds since the epoch.
    pub begun: f64,
    /// The client's port, 0 where there was no connection.
    pub port: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status, 0 without an answer.
    pub status: u16,
    /// The answer's `X-Node`.
    pub node: String,
    /// From the end of the request to the first byte of the answer, milliseconds.
    pub first_byte_ms: f64,
    /// From the start of the connection to its end, milliseconds.
    pub total_ms: f64,
    /// What was unexpected.
    pub note: String,
}

/// Deterministic upload bytes without a short period.
#[must_use]
pub fn pattern(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        // Marsaglia's xorshift: repeats after 2^32 - 1 steps.
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        bytes.extend_from_slice(&x.to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}
