//! Which rule holds, and what a policy is shown of a connection.

use dts_proxy::Head;
use dts_proxy::config::{Config, parse};
use dts_proxy::policy::Policy;
use dts_proxy::policy::sticky::By;
use dts_proxy::rules::{request, route};
use std::borrow::Cow;
use std::net::IpAddr;

const BASE: &str = "\
listen: 127.0.0.1:8001
pools:
  - { name: a, members: [{ address: 10.77.1.1:80 }] }
  - { name: b, members: [{ address: 10.77.1.2:80 }], balance: weight }
  - { name: c, members: [{ address: 10.77.1.3:80 }] }
rules:
  - { path_prefix: /a/, header: { name: X-Pool, value: c }, pool: c }
  - { path_prefix: /a/, pool: a }
  - { host: IMG.example, pool: b }
  - { header: { name: x-pool, value: c }, pool: c, balance: sticky, sticky: { cookie: id } }
default_pool: a
";

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn config() -> Config {
    parse(BASE, "x").unwrap()
}

fn pool<'c>(config: &'c Config, head: &Head<'_>) -> &'c str {
    &config.pools[route(config, head).pool].name
}

#[test]
fn first_matching_rule_wins_and_all_conditions_must_hold() {
    let config = config();
    let pool = |path, host, value: &'static str| {
        let head = Head {
            path: Some(path),
            host: Some(Cow::Borrowed(host)),
            headers: vec![("X-POOL", value.as_bytes())],
            sni: None,
        };
        pool(&config, &head).to_owned()
    };
    assert_eq!(pool("/a/x", "img.example", ""), "a");
    assert_eq!(pool("/a/x", "img.example", "c"), "c");
    assert_eq!(pool("/a", "img.example", "c"), "b");
    assert_eq!(pool("/A/x", "other", "c"), "c");
    assert_eq!(pool("/A/x", "other", "C"), "a");
    let nothing = route(&config, &Head::default());
    assert_eq!((nothing.pool, nothing.policy), (0, 0));
}

#[test]
fn a_rule_has_its_pools_policy_or_its_own() {
    let config = config();
    let policy = |host, value: &'static str| {
        let head = Head {
            path: Some("/"),
            host: Some(Cow::Borrowed(host)),
            headers: vec![("x-pool", value.as_bytes())],
            sni: None,
        };
        config.policies[route(&config, &head).policy].clone()
    };
    assert_eq!(policy("img.example", ""), Policy::Weight);
    assert_eq!(policy("other", ""), Policy::PathHash);
    let by_cookie = Policy::Sticky(By::Cookie("id".into()));
    assert_eq!(policy("other", "c"), by_cookie);
}

#[test]
fn server_name_rules() {
    let text = BASE.replace("listen", "protocol: tls\nlisten");
    let text = text.split("rules:").next().unwrap();
    let text = format!("{text}rules:\n  - {{ sni: Secure.example, pool: c }}\ndefault_pool: a\n");
    let config = parse(&text, "x").unwrap();
    let named = |name: &str| Head {
        sni: Some(name.to_owned()),
        ..Head::default()
    };
    assert_eq!(pool(&config, &named("secure.example")), "c");
    assert_eq!(pool(&config, &named("www.secure.example")), "a");
    let shown = request(&Policy::PathHash, &named("x.example"), SOURCE);
    assert_eq!(shown.target.as_deref(), Some(&b"x.example"[..]));
}

#[test]
fn the_cookie_that_is_asked_for() {
    let by = |name: &str| Policy::Sticky(By::Cookie(name.into()));
    let cookie = |policy: &Policy, fields: &[(&'static str, &'static [u8])]| {
        let head = Head {
            path: Some("/x"),
            headers: fields.to_vec(),
            ..Head::default()
        };
        request(policy, &head, SOURCE).cookie
    };
    let id = by("id");
    let one: &[_] = &[("COOKIE", &b"a=1; id=x.node2;b=2"[..])];
    assert_eq!(cookie(&id, one).as_deref(), Some("x.node2"));
    assert_eq!(cookie(&by("Id"), one), None, "names are case-sensitive");
    assert_eq!(cookie(&by("a=1; id"), one), None);
    let two: &[_] = &[
        ("cookie", &b"\xff; id=no"[..]),
        ("x-cookie", b"id=no"),
        ("cookie", b"nothing; =; id=first; id=second"),
    ];
    assert_eq!(cookie(&id, two).as_deref(), Some("first"));
    assert_eq!(cookie(&Policy::PathHash, one), None, "nobody looks at it");
    assert_eq!(cookie(&id, &[]), None);
}
