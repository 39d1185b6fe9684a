//! A client stays at its member: by a cookie of the application's, or by its address.
//!
//! The proxy sets no cookie, since it writes nothing. Where the application's cookie
//! ends with a dot and a member's name, as Java servers write their `jvmRoute`, that member gets the
//! connection; else the whole value is hashed, as the client's address is. A client
//! without the cookie goes anywhere, by weight.

use super::{Candidate, Request, hash};
use std::net::IpAddr;

/// What a client is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Its address.
    Source,
    /// The value of the cookie with this name (case-sensitive, RFC 6265).
    Cookie(String),
}

/// The member of a client.
#[must_use]
pub fn choose(
    by: &By,
    request: &Request,
    candidates: &[Candidate<'_>],
    draw: u64,
) -> Option<usize> {
    match (by, &request.cookie) {
        (By::Source, _) => match request.source {
            IpAddr::V4(ip) => hash::choose(candidates, &ip.octets()),
            IpAddr::V6(ip) => hash::choose(candidates, &ip.octets()),
        },
        (By::Cookie(_), Some(value)) => {
            let name = value.rsplit_once('.').map(|(_, name)| name);
            let named = |c: &Candidate<'_>| name.is_some() && c.name == name;
            let named = candidates.iter().position(named);
            named.or_else(|| hash::choose(candidates, value.as_bytes()))
        }
        (By::Cookie(_), None) => hash::choose(candidates, &draw.to_ne_bytes()),
    }
}
