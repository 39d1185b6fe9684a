//! The first snapshot that the workers read, made of configuration and devices. Those that
//! follow from the members are made by [`dts_owners`].

use dts_config::{Config, Policy, Unavailable};
use dts_core::key::{Addr, HashKey};
use dts_core::steer::Steer;
use dts_core::time::Span;
use dts_core::view::{Member, Params, Service, View};
use dts_core::wire::Mac;
use dts_membership::{Agreed, Peer, Record, Settings, State, TcpCaps, Version};
use dts_owners::Plan;
use dts_proto::block::{LinkKey, derive_key};
use siphasher::sip::SipHasher24;
use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a scheduler looks at the members' loads: records with them have come to it
/// meanwhile.
const LOOK_AT_LOADS: Duration = Duration::from_secs(1);

/// What only this start of the node knows.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Microseconds since the epoch at start: a restart has a higher one.
    pub incarnation: u64,
    /// Secret that spreads clients over workers.
    pub steer_key: [u8; 16],
}

impl Boot {
    /// Takes the time of this start. `steer_key` is the NIC's,
    /// [`Opened::steer_key`](dts_worker::start::Opened::steer_key).
    ///
    /// # Errors
    /// The clock stands before 1970.
    pub fn now(steer_key: [u8; 16]) -> anyhow::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            incarnation: u64::try_from(since.as_micros())?,
            steer_key,
        })
    }
}

/// The keys that authenticate membership and handovers between nodes: the first one
/// signs, all are accepted.
#[must_use]
pub fn link_keys(config: &Config) -> Vec<LinkKey> {
    let cluster = &config.cluster;
    std::iter::once(&cluster.key)
        .chain(&cluster.other_key)
        .map(|key| LinkKey::of(key.as_bytes()))
        .collect()
}

/// A digest of what the configurations of all nodes must agree on.
#[must_use]
pub fn config_digest(config: &Config) -> u64 {
    let cluster = &config.cluster;
    let bucket_key = cluster.bucket_key.as_ref().unwrap_or(&cluster.key);
    let mut h = SipHasher24::new_with_key(&derive_key(bucket_key.as_bytes(), "config v1"));
    cluster.name.hash(&mut h);
    cluster.mac.0.hash(&mut h);
    cluster.buckets.hash(&mut h);
    (cluster.policy as u8).hash(&mut h);
    cluster.designated.map(|d| d.0).hash(&mut h);
    for m in &cluster.members {
        (m.id.0, m.link).hash(&mut h);
    }
    for s in &config.services {
        (s.vip, s.port, s.application_port, s.policy as u8).hash(&mut h);
        s.designated.map(|d| d.0).hash(&mut h);
    }
    h.finish()
}

/// The members as configured.
#[must_use]
pub fn peers(config: &Config) -> Vec<Peer> {
    let members = config.cluster.members.iter();
    members
        .map(|m| Peer {
            node: m.id.0,
            link: m.link,
        })
        .collect()
}

/// The times of the membership protocol.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    let p = &config.peers;
    let scheduled = config
        .services
        .iter()
        .any(|s| s.policy == Policy::Scheduled);
    Settings {
        probe: p.probe,
        answer: p.answer,
        suspect: p.suspect,
        gone: p.gone,
        announce: p.probe * 4,
        minority: p.minority,
        schedule: match scheduled {
            true => LOOK_AT_LOADS,
            false => Duration::ZERO,
        },
    }
}

/// What this node says of itself at its start.
#[must_use]
pub fn own_record(config: &Config, boot: &Boot, link_mac: Mac, tcp: TcpCaps) -> Record {
    Record {
        node: config.node.0,
        incarnation: boot.incarnation,
        sequence: 0,
        state: State::Active,
        drained: false,
        weight: config.this_member().weight,
        link: config.this_member().link,
        link_mac,
        tcp,
        health: u64::MAX,
        load: 0,
        version: version(),
        config: config_digest(config),
        epoch: 0,
    }
}

/// This software's version.
fn version() -> Version {
    let mut numbers = env!("CARGO_PKG_VERSION").split(['.', '-', '+']);
    Version([(); 3].map(|()| numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0)))
}

/// The view in which every configured member is there: what a node without membership
/// goes by, and every node until it has joined.
fn configured(config: &Config) -> Agreed {
    let part = |m: &dts_config::Member| dts_membership::Part {
        node: m.id.0,
        incarnation: 0,
        state: State::Active,
        weight: m.weight,
        health: u64::MAX,
        on_wire: true,
    };
    let mut parts: Vec<_> = config.cluster.members.iter().map(part).collect();
    parts.sort_unstable_by_key(|p| p.node);
    Agreed {
        parts,
        ..Agreed::default()
    }
}

/// The snapshot in which every member but this node is yet to be heard of, and owns its
/// share all the same.
#[must_use]
pub fn build(config: &Config, boot: Boot, wire_mac: Mac, link_mac: Mac) -> View {
    let cluster = &config.cluster;
    let agreed = configured(config);
    let (general, tables) = Plan::of(config).tables(&agreed);
    let services = config
        .services
        .iter()
        .zip(tables)
        .map(|(s, buckets)| Service {
            name: s.name.clone(),
            vip: s.vip.into(),
            port: s.port,
            proxy_port: s.proxy_port,
            app_port: s.application_port,
            repeats: s.repeats,
            buckets,
            refuses: s.unavailable == Unavailable::Rst,
        });
    let members = cluster.members.iter().map(|m| {
        let own = m.id == config.node;
        Member {
            id: m.id.0,
            link: m.link.into(),
            known: own.then_some((link_mac, boot.incarnation)),
            alive: own,
            on_wire: own,
            gone: false,
            takes: agreed.takes(m.id.0),
        }
    });
    View {
        node: config.node.0,
        incarnation: boot.incarnation,
        wire_mac,
        cluster_mac: cluster.mac.0,
        host_mac: cluster.host_mac().0,
        igmp: cluster.group(),
        link_mac,
        link: config.this_member().link.into(),
        own: config
            .ports
            .wire
            .host
            .addresses
            .iter()
            .map(|a| Addr::from(a.address))
            .collect(),
        services: services.collect(),
        general,
        members: members.collect(),
        keys: link_keys(config),
        steer: Steer::new(boot.steer_key),
        steer_key: HashKey::new(boot.steer_key),
        params: params(config),
    }
}

fn span(d: Duration) -> Span {
    Span(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn params(config: &Config) -> Params {
    let (handover, timeouts, memory) = (&config.handover, &config.timeouts, &config.memory);
    Params {
        mtu: usize::from(config.ports.wire.mtu.min(config.ports.link.mtu)),
        wire_mtu: usize::from(config.ports.wire.mtu),
        first_window: u32::from(handover.first_window),
        replay: handover.replay,
        paper_form: config.cluster.accept_paper_form,
        deadline: span(handover.deadline),
        unknown_deadline: span(handover.unknown_deadline),
        splice_ports: (handover.splice_ports.first, handover.splice_ports.last),
        half_open: span(timeouts.half_open),
        idle: span(timeouts.idle),
        closing: span(timeouts.closing),
        tombstone: span(timeouts.tombstone),
        half_open_max: memory.half_open as usize,
        tombstones_max: memory.tombstones as usize,
        announce: config.cluster.announce,
        hello: config.peers.hello.map(span),
        orphan_resets: config.orphans.reset,
        resets_per_s: config.orphans.resets_per_s,
        hold_flow_max: memory.hold_flow_kib as usize * 1024,
        repeat_max: memory.repeat_kib as usize * 1024,
        repeat_within: span(handover.repeat_within),
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
