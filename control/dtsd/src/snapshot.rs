//! The first snapshot that the workers read, made of configuration and devices.

use dts_config::Config;
use dts_core::key::{Addr, HashKey};
use dts_core::ownership::{BucketTable, Share};
use dts_core::steer::Steer;
use dts_core::time::Span;
use dts_core::view::{Member, Params, Service, View};
use dts_core::wire::Mac;
use dts_proto::block::{LinkKey, derive_key};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The keys that authenticate hellos and handovers between nodes: the first one
/// signs, all are accepted.
#[must_use]
pub fn link_keys(config: &Config) -> Vec<LinkKey> {
    let cluster = &config.cluster;
    std::iter::once(&cluster.key)
        .chain(&cluster.other_key)
        .map(|key| LinkKey::of(key.as_bytes()))
        .collect()
}

/// The snapshot in which every member but this node is yet to be heard of.
#[must_use]
pub fn build(config: &Config, boot: Boot, wire_mac: Mac, link_mac: Mac) -> View {
    let cluster = &config.cluster;
    let shares: Vec<Share> = cluster
        .members
        .iter()
        .map(|m| Share {
            node: m.id.0,
            weight: u32::from(m.weight),
        })
        .collect();
    let key = cluster.bucket_key.as_ref().unwrap_or(&cluster.key);
    let key = derive_key(key.as_bytes(), "buckets v1");
    let table = |policy, designated: Option<dts_config::NodeId>| {
        let designated = designated.map(|n| n.0);
        Arc::new(BucketTable::new(
            policy,
            designated,
            &shares,
            cluster.buckets as usize,
            key,
        ))
    };
    let services = config.services.iter().map(|s| Service {
        name: s.name.clone(),
        vip: s.vip.into(),
        port: s.port,
        proxy_port: s.proxy_port,
        app_port: s.application_port,
        buckets: table(s.policy, s.designated),
    });
    let members = cluster.members.iter().map(|m| {
        let own = m.id == config.node;
        Member {
            id: m.id.0,
            link: m.link.into(),
            known: own.then_some((link_mac, boot.incarnation)),
            alive: own,
            gone: false,
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
        general: table(cluster.policy, cluster.designated),
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
        orphan_resets: config.orphans.reset.then_some(config.orphans.resets_per_s),
        hold_flow_max: memory.hold_flow_kib as usize * 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::config;

    const BOOT: Boot = Boot {
        incarnation: 7,
        steer_key: [1; 16],
    };

    #[test]
    fn says_what_the_configuration_says() {
        let config = config();
        let view = build(&config, BOOT, [2; 6], [4; 6]);
        assert_eq!((view.node, view.incarnation), (1, 7));
        assert_eq!(view.params.deadline, Span::millis(150));
        assert_eq!(view.params.hold_flow_max, 128 * 1024);
        assert_eq!(view.services[0].intake_port(), 8001);
        let me = view.member(1).unwrap();
        assert_eq!((me.known, me.alive), (Some(([4; 6], 7)), true));
        let other = view.member(2).unwrap();
        assert_eq!((other.known, other.alive, other.gone), (None, false, false));
        let share = |n| view.services[0].buckets.share(n);
        assert_eq!(share(1) + share(2), 4096);
        assert!(share(1) > 1500 && share(2) > 1500);
    }

    #[test]
    fn a_rotation_changes_who_signs_and_not_who_owns() {
        let (old, new) = ("000102030405060708090a0b0c0d0e0f", "f0".repeat(16));
        let at = |key: &str, other: &str, bucket: &str| {
            let mut config = config();
            let parse = |k: &str| (!k.is_empty()).then(|| k.parse().unwrap());
            config.cluster.key = parse(key).unwrap();
            config.cluster.other_key = parse(other);
            config.cluster.bucket_key = parse(bucket);
            build(&config, BOOT, [2; 6], [4; 6])
        };
        let ids = |v: &View| v.keys.iter().map(|k| k.id).collect::<Vec<_>>();
        let before = at(old, "", "");
        let announced = at(old, &new, old);
        let changed = at(&new, old, old);
        let after = at(&new, "", old);
        let ([a], [b]) = (&ids(&before)[..], &ids(&after)[..]) else {
            panic!("one key each")
        };
        assert_ne!(a, b);
        assert_eq!(
            (ids(&announced), ids(&changed)),
            (vec![*a, *b], vec![*b, *a])
        );
        let owners = |v: &View| -> Vec<u16> {
            let key = |client_port| dts_core::key::FlowKey {
                client: Addr::v4([10, 77, 0, 9]),
                vip: v.services[0].vip,
                client_port,
                port: 80,
            };
            (1..500)
                .map(|p| v.services[0].buckets.owner(&key(p)))
                .collect()
        };
        for v in [&announced, &changed, &after] {
            assert_eq!(owners(v), owners(&before));
        }
        // Without the old bucket key the new cluster key is a new epoch.
        assert_ne!(owners(&at(&new, "", "")), owners(&before));
    }

    #[test]
    fn nodes_agree_on_owners_whatever_their_boot() {
        let config = config();
        let a = build(&config, BOOT, [2; 6], [4; 6]);
        let b = build(
            &config,
            Boot {
                incarnation: 9,
                steer_key: [9; 16],
            },
            [6; 6],
            [8; 6],
        );
        for port in 1..2000 {
            let key = dts_core::key::FlowKey {
                client: Addr::v4([10, 77, 0, 9]),
                vip: a.services[0].vip,
                client_port: port,
                port: 80,
            };
            assert_eq!(
                a.services[0].buckets.owner(&key),
                b.services[0].buckets.owner(&key)
            );
        }
    }
}
