//! The request inspector of the DTS paper: it accepts connections on a
//! service's proxy port, reads just enough of each to choose a destination, and
//! asks the daemon of its node to move the connection there. It writes to no client
//! but one whom nobody takes, and where that is configured.
//!
//! This crate is a library so that tests can run the parts; the program is
//! `dts-proxy`.

pub mod config;
pub mod gate;
pub mod handover;
pub mod http;
pub mod loads;
pub mod policy;
pub mod router;
pub mod rules;
pub mod serve;
pub mod tls;

use std::borrow::Cow;

/// What the first bytes of a connection say, borrowed from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    /// HTTP: path of the request target, query cut off, not decoded.
    pub path: Option<&'a str>,
    /// HTTP: host without port, lower case.
    pub host: Option<Cow<'a, str>>,
    /// HTTP: header fields in order, names as sent, values without the white
    /// space around them.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// TLS: server name, lower case.
    pub sni: Option<String>,
}

/// Why the first bytes of a connection are not worth a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// It does not follow the protocol.
    #[error("not a valid request: {0}")]
    Invalid(&'static str),
    /// It is larger than `limits.head_bytes`.
    #[error("request head too large")]
    TooLarge,
}

/// Finds the end of a head in a buffer that grows, without looking at any byte
/// twice.
#[derive(Debug)]
pub enum Scanner {
    /// HTTP/1: up to the first empty line.
    Http(http::Scanner),
    /// TLS: the records that hold the ClientHello.
    Tls(tls::Scanner),
}

impl Scanner {
    /// A scanner for a new connection.
    #[must_use]
    pub fn new(protocol: config::Protocol) -> Self {
        match protocol {
            config::Protocol::Http => Self::Http(http::Scanner::default()),
            config::Protocol::Tls => Self::Tls(tls::Scanner::default()),
        }
    }

    /// Looks at what was added to `buffer` since the last call; true when the
    /// head is complete. `buffer` only ever grows between calls.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a valid head.
    pub fn advance(&mut self, buffer: &[u8]) -> Result<bool, BadHead> {
        match self {
            Self::Http(scanner) => scanner.advance(buffer),
            Self::Tls(scanner) => scanner.advance(buffer),
        }
    }

    /// The head of `buffer`, once [`Scanner::advance`] has said true.
    ///
    /// # Errors
    /// When the complete head is invalid.
    pub fn head<'a>(&self, buffer: &'a [u8]) -> Result<Head<'a>, BadHead> {
        match self {
            Self::Http(scanner) => scanner.head(buffer),
            Self::Tls(scanner) => scanner.head(),
        }
    }
}
