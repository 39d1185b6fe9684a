//! Which pool and policy a connection goes by, and what the policy may look at.

use crate::Head;
use crate::config::{Config, Rule};
use crate::policy::sticky::By;
use crate::policy::{Policy, Request};
use cookie::Cookie;
use std::net::IpAddr;

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index into [`Config::pools`].
    pub pool: usize,
    /// Index into [`Config::policies`].
    pub policy: usize,
}

/// Pool and policy of the first matching rule.
#[must_use]
pub fn route(config: &Config, head: &Head<'_>) -> Route {
    match config.rules.iter().find(|rule| matches(rule, head)) {
        Some(rule) => Route {
            pool: rule.pool,
            policy: rule.policy,
        },
        None => Route {
            pool: config.default_pool,
            policy: config.pools[config.default_pool].policy,
        },
    }
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

/// What `policy` looks at of a connection of `source`'s.
#[must_use]
pub fn request(policy: &Policy, head: &Head<'_>, source: IpAddr) -> Request {
    let target = head.path.or(head.sni.as_deref());
    Request {
        target: target.map(|target| target.as_bytes().to_vec()),
        source,
        cookie: match policy {
            Policy::Sticky(By::Cookie(name)) => cookie(head, name),
            _ => None,
        },
    }
}

/// The value of the first cookie with this name; what is no cookie is passed over.
fn cookie(head: &Head<'_>, name: &str) -> Option<String> {
    let fields = head.headers.iter();
    let fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case("cookie"));
    fields
        .filter_map(|(_, value)| std::str::from_utf8(value).ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
        .map(|cookie| cookie.value().to_owned())
}
