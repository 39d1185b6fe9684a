//! Views of a configuration, and what follows from the members.

use super::*;
use crate::testkit::config;
use dts_config::Policy;
use dts_membership::Seen;
use dts_owners::next;

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

fn seen(config: &Config, node: u16, incarnation: u64) -> Seen {
    let mut config = config.clone();
    config.node = dts_config::NodeId(node);
    let boot = Boot {
        incarnation,
        ..BOOT
    };
    let peer = peers(&config)[usize::from(node) - 1];
    Seen {
        peer,
        liveness: dts_membership::Liveness::Alive,
        since: Duration::ZERO,
        gone: false,
        generation: 0,
        record: Some(own_record(
            &config,
            &boot,
            [node as u8; 6],
            TcpCaps::default(),
        )),
    }
}

#[test]
fn members_and_owners_follow_what_is_agreed() {
    let config = config();
    let plan = Plan::of(&config);
    let first = build(&config, BOOT, [2; 6], [4; 6]);
    let both = [seen(&config, 1, 7), seen(&config, 2, 9)];
    let mut agreed = configured(&config);
    let view = next(&first, &plan, &both, &agreed, true);
    let other = view.member(2).unwrap();
    assert_eq!(
        (other.known, other.alive, other.takes),
        (Some(([2; 6], 9)), true, u64::MAX)
    );
    let share = |v: &View, n| v.services[0].buckets.share(n);
    assert_eq!((share(&view, 1), share(&view, 2)), (2048, 2048));
    agreed.parts[1].state = State::Draining;
    let kept = next(&view, &plan, &both, &agreed, false);
    assert_eq!((share(&kept, 2), kept.member(2).unwrap().takes), (2048, 0));
    let drained = next(&view, &plan, &both, &agreed, true);
    assert_eq!((share(&drained, 1), drained.general.share(1)), (4096, 4096));
    assert!(drained.member(2).unwrap().alive && !drained.member(2).unwrap().takes(0));
    // What is known of a dead one stays known.
    agreed.parts.truncate(1);
    let gone = [
        both[0],
        Seen {
            record: None,
            gone: true,
            ..both[1]
        },
    ];
    let dead = next(&drained, &plan, &gone, &agreed, true);
    let dead = dead.member(2).unwrap();
    assert_eq!(
        (dead.known, dead.alive, dead.gone),
        (Some(([2; 6], 9)), false, true)
    );
}

#[test]
fn a_designated_owner_that_takes_nothing_is_stood_in_for() {
    let mut config = config();
    config.services[0].policy = Policy::Designated;
    config.services[0].designated = Some(dts_config::NodeId(2));
    let plan = Plan::of(&config);
    let mut agreed = configured(&config);
    let owner = |a: &Agreed| plan.tables(a).1[0].owners().to_vec();
    assert!(owner(&agreed).iter().all(|o| *o == 2));
    agreed.parts[1].state = State::Draining;
    assert!(owner(&agreed).iter().all(|o| *o == 1));
    agreed.minority = true;
    assert!(
        owner(&agreed)
            .iter()
            .all(|o| *o == dts_core::ownership::NOBODY)
    );
}

#[test]
fn the_scheduler_has_its_word_where_the_policy_wants_it() {
    let mut config = config();
    assert_eq!(settings(&config).schedule, Duration::ZERO);
    let mut other = config.services[0].clone();
    (other.name, other.port) = ("other".into(), 81);
    config.services.push(other);
    config.services[1].policy = Policy::Scheduled;
    assert_eq!(settings(&config).schedule, Duration::from_secs(1));
    let plan = Plan::of(&config);
    let mut agreed = configured(&config);
    let shares = |a: &Agreed| -> Vec<(usize, usize)> {
        let (general, services) = plan.tables(a);
        let all = std::iter::once(general).chain(services);
        all.map(|t| (t.share(1), t.share(2))).collect()
    };
    assert_eq!(shares(&agreed), [(2048, 2048); 3]);
    agreed.factors.insert(2, 250);
    assert_eq!(shares(&agreed), [(2048, 2048), (2048, 2048), (3277, 819)]);
    // What the one that is gone had is the other's at once.
    agreed.parts.truncate(1);
    assert_eq!(shares(&agreed), [(4096, 0); 3]);
}

#[test]
fn a_service_without_a_well_application_is_nobodys() {
    let config = config();
    let plan = Plan::of(&config);
    let mut agreed = configured(&config);
    agreed.parts.iter_mut().for_each(|p| p.health = !1);
    let (general, services) = plan.tables(&agreed);
    assert!(general.is_owned() && !services[0].is_owned());
    agreed.minority = true;
    let (general, services) = plan.tables(&agreed);
    assert!(!general.is_owned() && !services[0].is_owned());
}

#[test]
fn what_nodes_must_agree_on_is_in_the_digest() {
    let base = config();
    let mut same = base.clone();
    same.node = dts_config::NodeId(2);
    same.services[0].proxy_port = Some(9000);
    same.cluster.members[0].weight = 3;
    assert_eq!(config_digest(&same), config_digest(&base));
    let changes: [fn(&mut Config); 5] = [
        |c| c.cluster.buckets = 16,
        |c| c.services[0].port = 81,
        |c| c.services[0].policy = Policy::SourceHash,
        |c| c.cluster.members[1].link = [127, 0, 0, 9].into(),
        |c| c.cluster.bucket_key = "f0".repeat(16).parse().ok(),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut other = base.clone();
        change(&mut other);
        assert_ne!(config_digest(&other), config_digest(&base), "change {i}");
    }
    assert_eq!(version().to_string(), env!("CARGO_PKG_VERSION"));
}
