//! Which members of a pool a connection may go to, and in which order.

use crate::Head;
use crate::config::{Balance, Config, Member, Pool, Rule};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

/// Key of the placement hash. It is no secret and must be the same on every
/// node, since all of them are to choose the same member for a path.
const PLACEMENT_KEY: [u8; 16] = *b"dts-proxy/place1";

/// Destinations to try, best first, none twice: the chosen member, up to
/// `retries` others of its pool, then the pool's members on this node.
///
/// `draw` is a random number, used where the choice is not by content.
#[must_use]
pub fn candidates(config: &Config, head: &Head<'_>, draw: u64) -> Vec<SocketAddr> {
    let pool = pool_of(config, head);
    let key = match pool.balance {
        Balance::PathHash => head.path.or(head.sni.as_deref()),
        Balance::Weight => None,
    };
    let order = match key {
        Some(key) => order(pool, key.as_bytes()),
        None => order(pool, &draw.to_ne_bytes()),
    };
    let first = 1 + config.retries;
    let is_local = |member: &&Member| config.local == Some(member.address.ip());
    let local = order.iter().skip(first).copied().filter(is_local);
    let chosen = order.iter().take(first).copied();
    chosen.chain(local).map(|member| member.address).collect()
}

/// The pool that the first matching rule names.
#[must_use]
pub fn pool_of<'a>(config: &'a Config, head: &Head<'_>) -> &'a Pool {
    let rule = config.rules.iter().find(|rule| matches(rule, head));
    &config.pools[rule.map_or(config.default_pool, |rule| rule.pool)]
}

fn matches(rule: &Rule, head: &Head<'_>) -> bool {
    let path = rule.path_prefix.as_ref();
    let host = rule.host.as_ref();
    let sni = rule.sni.as_ref();
    let header = rule.header.as_ref();
    path.is_none_or(|prefix| head.path.is_some_and(|path| path.starts_with(prefix)))
        && host.is_none_or(|host| head.host.as_deref() == Some(host))
        && sni.is_none_or(|sni| head.sni.as_ref() == Some(sni))
        && header.is_none_or(|wanted| {
            head.headers.iter().any(|(name, value)| {
                name.eq_ignore_ascii_case(&wanted.name) && *value == wanted.value.as_bytes()
            })
        })
}

/// All members that take connections, by weighted rendezvous hashing (highest
/// random weight, with the logarithm of Schindelhauer and Schomaker): each is
/// first in proportion to its weight, and taking one away moves only the keys
/// that it was first for.
fn order<'a>(pool: &'a Pool, key: &[u8]) -> Vec<&'a Member> {
    let active = pool.members.iter().filter(|member| member.weight > 0);
    let mut scored: Vec<_> = active
        .map(|member| (cost(member, key), member.address, member))
        .collect();
    // The address makes the order total, so that nodes agree on equal costs.
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, _, member)| member).collect()
}

/// Exponentially distributed with rate `weight`; the least one wins.
fn cost(member: &Member, key: &[u8]) -> f64 {
    let mut hasher = SipHasher24::new_with_key(&PLACEMENT_KEY);
    match member.address.ip() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.write(&member.address.port().to_be_bytes());
    hasher.write(key);
    // 53 bits fill the mantissa; the half keeps it off 0 and 1.
    let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(member.weight)
}
