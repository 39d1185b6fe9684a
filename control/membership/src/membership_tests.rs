//! What a core takes, and what it says; whole clusters are in `tests/cluster.rs`.

use super::*;
use crate::record::tests::any_record;
use crate::record::{TcpCaps, Version};
use crate::types::{Asked, Wish, WishError};
use proptest::prelude::*;

const KEY: &[u8] = b"0123456789abcdef";
const SETTINGS: Settings = Settings {
    probe: Duration::from_millis(50),
    answer: Duration::from_millis(20),
    suspect: Duration::from_millis(120),
    gone: Duration::from_millis(3000),
    announce: Duration::from_millis(200),
    minority: Duration::from_millis(30_000),
    schedule: Duration::from_secs(1),
};

fn link(node: u16) -> IpAddr {
    [10, 77, 1, node as u8].into()
}

fn record(node: u16, incarnation: u64) -> Record {
    Record {
        node,
        incarnation,
        sequence: 0,
        state: State::Active,
        drained: false,
        weight: 100,
        link: link(node),
        link_mac: [node as u8; 6],
        tcp: TcpCaps::default(),
        health: u64::MAX,
        load: 0,
        version: Version([0, 1, 0]),
        config: 1,
        epoch: 0,
    }
}

fn core_of(own: Record, key: &[u8]) -> Membership {
    let peers = [3, 1, 2].map(|node| Peer {
        node,
        link: link(node),
    });
    let keys = vec![LinkKey::new(1, key)];
    Membership::new(own, &peers, keys, SETTINGS, 7, at(0))
}

fn core(node: u16) -> Membership {
    core_of(record(node, 10), KEY)
}

fn at(ms: u64) -> Time {
    Duration::from_millis(1000 + ms)
}

fn outside(sender: u16, counter: u64) -> Outside {
    Outside {
        kind: Kind::Records,
        sender,
        receiver: 1,
        incarnation: 10,
        counter,
    }
}

fn body_of(r: &Record) -> Vec<u8> {
    let mut body = Vec::new();
    r.encode(&mut body);
    body
}

fn sealed(o: &Outside, body: &[u8]) -> Vec<u8> {
    envelope::seal(o, body, &LinkKey::new(1, KEY))
}

/// Carries what waits between two cores until nothing does; others' is lost.
fn talk(a: &mut Membership, b: &mut Membership, now: Time) {
    loop {
        let (out_a, out_b) = (a.take_outbox(), b.take_outbox());
        if out_a.is_empty() && out_b.is_empty() {
            return;
        }
        let (at_a, at_b) = (link(a.own), link(b.own));
        for d in out_a.iter().filter(|d| d.to == at_b) {
            assert_eq!(b.hear(&d.bytes, at_a, now), Ok(()));
        }
        for d in out_b.iter().filter(|d| d.to == at_a) {
            assert_eq!(a.hear(&d.bytes, at_b, now), Ok(()));
        }
    }
}

fn pair() -> (Membership, Membership) {
    let (mut a, mut b) = (core(1), core(2));
    a.tick(at(0));
    talk(&mut a, &mut b, at(1));
    (a, b)
}

#[test]
fn two_nodes_meet_by_one_announcement() {
    let (mut a, b) = pair();
    for (core, other) in [(&a, 2), (&b, 1)] {
        let part = core.agreed().part(other).expect("it has announced itself");
        assert_eq!((part.weight, part.state), (100, State::Active));
        assert_eq!(core.agreed().parts.len(), 2);
    }
    assert_eq!(a.own_record().epoch, b.own_record().epoch);
    assert!(a.take_changed() && !a.take_changed());
    // The third one is still asked for.
    assert!(!a.has_joined(at(10)) && a.has_joined(at(250)));
    a.tick(at(200));
    let out = a.take_outbox();
    assert!(out.iter().any(|d| d.to == link(3)));
}

#[test]
fn what_is_not_the_senders_to_say_is_refused() {
    let mut a = core(1);
    let from_2 = body_of(&record(2, 10));
    let cases = [
        (outside(4, 1), link(4), Refused::Stranger),
        (outside(1, 1), link(1), Refused::DuplicateId),
        // Another node was given the id 2.
        (outside(2, 1), link(3), Refused::DuplicateId),
        (outside(2, 1), [10, 77, 1, 99].into(), Refused::DuplicateId),
        (
            Outside {
                receiver: 3,
                ..outside(2, 1)
            },
            link(2),
            Refused::Misdirected,
        ),
    ];
    for (o, from, why) in cases {
        assert_eq!(a.hear(&sealed(&o, &from_2), from, at(1)), Err(why));
    }
    let forged = envelope::seal(
        &outside(2, 1),
        &from_2,
        &LinkKey::new(1, b"another cluster."),
    );
    assert_eq!(a.hear(&forged, link(2), at(1)), Err(Refused::Forged));
    let key = envelope::seal(&outside(2, 1), &from_2, &LinkKey::new(9, KEY));
    assert_eq!(a.hear(&key, link(2), at(1)), Err(Refused::Key));
    assert!(a.members()[1].record.is_none());
    // None of them has used the counter up.
    let good = sealed(&outside(2, 1), &from_2);
    assert_eq!(a.hear(&good, link(2), at(1)), Ok(()));
    assert_eq!(a.hear(&good, link(2), at(1)), Err(Refused::Replayed));
    assert_eq!(a.members()[1].record, Some(record(2, 10)));
}

#[test]
fn a_record_holds_until_a_later_one() {
    let mut a = core(1);
    let mut counter = 0;
    let mut tell = |a: &mut Membership, r: Record| {
        counter += 1;
        let bytes = sealed(&outside(2, counter), &body_of(&r));
        assert_eq!(a.hear(&bytes, link(2), at(1)), Ok(()));
        a.members()[usize::from(r.node) - 1].record
    };
    let with = |incarnation, sequence, weight| Record {
        sequence,
        weight,
        ..record(3, incarnation)
    };
    assert_eq!(tell(&mut a, with(5, 7, 40)), Some(with(5, 7, 40)));
    assert_eq!(tell(&mut a, with(5, 6, 41)), Some(with(5, 7, 40)));
    assert_eq!(tell(&mut a, with(5, 7, 42)), Some(with(5, 7, 40)));
    assert_eq!(tell(&mut a, with(5, 8, 43)), Some(with(5, 8, 43)));
    assert_eq!(tell(&mut a, with(6, 0, 44)), Some(with(6, 0, 44)));
    assert_eq!(tell(&mut a, with(5, 99, 45)), Some(with(6, 0, 44)));
    // A record does not make its node alive, and nobody speaks for this one.
    assert_eq!(a.members()[2].liveness, Liveness::Unknown);
    assert!(a.agreed().part(3).is_none());
    let about_me = Record {
        weight: 1,
        ..record(1, 99)
    };
    assert_eq!(tell(&mut a, about_me).map(|r| r.weight), Some(100));
}

#[test]
fn a_change_is_told_at_once_and_a_load_is_not() {
    let (mut a, mut b) = pair();
    let before = *a.own_record();
    a.set_own(at(2), |r| r.load = 5);
    assert!(a.take_outbox().is_empty());
    assert_eq!(a.own_record().sequence, before.sequence + 1);
    a.set_own(at(2), |r| r.load = 5);
    assert_eq!(a.own_record().sequence, before.sequence + 1);
    a.set_own(at(2), |r| {
        r.health = 1;
        // Not the caller's.
        r.node = 2;
        r.incarnation = 1;
        r.sequence = 0;
    });
    talk(&mut a, &mut b, at(3));
    let heard = b.members()[0].record.expect("pushed");
    assert_eq!((heard.health, heard.load, heard.incarnation), (1, 5, 10));
    assert_eq!(b.agreed().part(1).map(|p| p.health), Some(1));
}

#[test]
fn wishes_are_fulfilled_refused_or_given_up() {
    let (mut a, mut b) = pair();
    let patience = Duration::from_millis(300);
    a.wish(1, 2, Wish::Weight(7), patience, at(2));
    assert!(a.take_outcomes().is_empty());
    talk(&mut a, &mut b, at(3));
    a.tick(at(52));
    assert_eq!(a.take_outcomes(), [(1, Ok(vec![]))]);
    assert_eq!(b.own_record().weight, 7);
    // One that holds already, one for nobody, one for who is not there.
    a.wish(2, 2, Wish::Weight(7), patience, at(60));
    a.wish(3, 9, Wish::Drain, patience, at(60));
    a.wish(4, 3, Wish::Drain, patience, at(60));
    let ended = [
        (2, Ok(vec![])),
        (3, Err(WishError::NoSuchNode)),
        (4, Err(WishError::NotThere)),
    ];
    let mut outcomes = a.take_outcomes();
    outcomes.sort_by_key(|o| o.0);
    assert_eq!(outcomes, ended);
    // This node's own.
    a.wish(5, 1, Wish::Standby, patience, at(60));
    assert_eq!(a.take_outcomes(), [(5, Ok(vec![]))]);
    assert_eq!(a.own_record().state, State::Standby);
}

#[test]
fn a_wish_that_nobody_hears_ends() {
    let (mut a, _) = pair();
    a.take_outbox();
    a.wish(1, 2, Wish::Drain, Duration::from_millis(120), at(2));
    let mut asked = 0;
    let mut now = at(2);
    while a.take_outcomes().is_empty() {
        assert!(now < at(200), "it does not end");
        let is_wish = |d: &Datagram| d.bytes[6] == Kind::Wish as u8;
        asked += a.take_outbox().iter().filter(|d| is_wish(d)).count();
        now = a.next().max(now);
        a.tick(now);
    }
    assert_eq!(asked, 3);
}

#[test]
fn questions_are_answered_once() {
    let (mut a, mut b) = pair();
    let patience = Duration::from_millis(300);
    a.ask(1, 2, b"who?".to_vec(), patience, at(2));
    talk(&mut a, &mut b, at(3));
    let asked = b.take_asked();
    let expected = Asked {
        node: 1,
        incarnation: 10,
        ticket: 1,
        question: b"who?".to_vec(),
    };
    assert_eq!(asked, [expected]);
    // Not answered yet: asked again.
    a.tick(at(52));
    talk(&mut a, &mut b, at(53));
    assert_eq!(b.take_asked(), asked);
    assert!(a.take_outcomes().is_empty());
    // Not what this start of the node asked, nor under this ticket.
    for (incarnation, ticket) in [(9, 1), (10, 2)] {
        let other = Asked {
            incarnation,
            ticket,
            ..asked[0].clone()
        };
        b.answer(&other, b"nonsense");
    }
    b.answer(&asked[0], b"me");
    b.answer(&asked[0], b"me again");
    talk(&mut a, &mut b, at(54));
    assert_eq!(a.take_outcomes(), [(1, Ok(b"me".to_vec()))]);
    a.tick(at(102));
    talk(&mut a, &mut b, at(103));
    assert!(a.take_outcomes().is_empty() && b.take_asked().is_empty());
    // Who is not there, and who does not answer.
    a.ask(2, 3, Vec::new(), patience, at(110));
    a.ask(3, 2, Vec::new(), Duration::ZERO, at(110));
    let ended = [(2, Err(WishError::NotThere)), (3, Err(WishError::NoAnswer))];
    assert_eq!(a.take_outcomes(), ended);
    let longest = vec![7; Membership::ERRAND_MAX];
    a.ask(4, 2, longest.clone(), patience, at(111));
    talk(&mut a, &mut b, at(112));
    let asked = b.take_asked();
    b.answer(&asked[0], &longest);
    talk(&mut a, &mut b, at(113));
    assert_eq!(a.take_outcomes(), [(4, Ok(longest))]);
}

#[test]
fn a_node_whose_clock_was_set_back_is_refused_and_disturbs_nothing() {
    let (mut a, mut b) = pair();
    b.leave(at(5));
    talk(&mut a, &mut b, at(6));
    // Node 2 is started anew, and its clock says an earlier time than at its first start.
    let mut back = core_of(record(2, 9), KEY);
    let refused = |a: &mut Membership, back: &mut Membership, now| {
        let out = back.take_outbox();
        for d in out.iter().filter(|d| d.to == link(1)) {
            let heard = a.hear(&d.bytes, link(2), now);
            assert_eq!(heard, Err(Refused::Replayed));
        }
        out.len()
    };
    back.tick(at(10));
    assert!(refused(&mut a, &mut back, at(11)) > 0);
    assert_eq!(a.agreed().parts.len(), 1);
    // It is told so by whoever asks it to join, and counts on nobody.
    let tell = |a: &mut Membership, back: &mut Membership, now| {
        a.tick(now);
        let out = a.take_outbox();
        for d in out.iter().filter(|d| d.to == link(2)) {
            assert_eq!(back.hear(&d.bytes, link(1), now), Ok(()));
        }
        refused(a, back, now);
    };
    tell(&mut a, &mut back, at(250));
    assert_eq!(back.superseded(), Some(10));
    let parts = &back.agreed().parts;
    assert!(back.agreed().minority && parts.len() == 1 && parts[0].node == 2);
    assert!(a.superseded().is_none() && !a.agreed().minority);
    // As long as somebody says so.
    back.tick(at(1200));
    assert_eq!(back.superseded(), Some(10));
    assert!(back.next() <= at(1250));
    back.tick(at(1251));
    assert!(back.superseded().is_none());
    // Started anew when its clock has passed the time of the first start.
    let mut later = core_of(record(2, 11), KEY);
    later.tick(at(1300));
    talk(&mut a, &mut later, at(1301));
    assert_eq!(a.agreed().part(2).map(|p| p.incarnation), Some(11));
    assert!(later.superseded().is_none() && later.agreed().parts.len() == 2);
}

#[test]
fn a_goodbye_is_the_last_word() {
    let (mut a, mut b) = pair();
    a.leave(at(5));
    let out = a.take_outbox();
    assert_eq!(out.len(), GOODBYES);
    for d in out.iter().filter(|d| d.to == link(2)) {
        assert_eq!(b.hear(&d.bytes, link(1), at(6)), Ok(()));
    }
    assert_eq!(b.members()[0].liveness, Liveness::Left);
    assert!(b.members()[0].gone && b.agreed().part(1).is_none());
    assert_eq!(a.next(), Time::MAX);
    a.tick(at(900));
    a.wish(1, 1, Wish::Activate, Duration::from_secs(1), at(900));
    assert_eq!(a.own_record().state, State::Left);
    assert!(a.take_outbox().is_empty());
}

#[test]
fn the_clocks_of_nodes_need_not_agree() {
    let mut early = core_of(record(2, 10), KEY);
    let mut late = core(1);
    let day = Duration::from_secs(86_400);
    late.tick(at(0) + day);
    for d in late.take_outbox().iter().filter(|d| d.to == link(2)) {
        assert_eq!(early.hear(&d.bytes, link(1), at(0)), Ok(()));
    }
    for d in early.take_outbox().iter().filter(|d| d.to == link(1)) {
        assert_eq!(late.hear(&d.bytes, link(2), at(1) + day), Ok(()));
    }
    assert_eq!(late.agreed().parts.len(), 2);
    assert_eq!(early.agreed().parts.len(), 2);
}

#[test]
fn messages_fit_however_many_members_there_are() {
    let peers: Vec<Peer> = (1..=200)
        .map(|node| Peer {
            node,
            link: link(node),
        })
        .collect();
    let own = record(1, 10);
    let mut a = Membership::new(own, &peers, vec![LinkKey::new(1, KEY)], SETTINGS, 1, at(0));
    for node in 2..=200 {
        let mut other = Membership::new(
            record(node, 10),
            &peers,
            vec![LinkKey::new(1, KEY)],
            SETTINGS,
            1,
            at(0),
        );
        other.tick(at(0));
        for d in other.take_outbox().iter().filter(|d| d.to == link(1)) {
            assert_eq!(a.hear(&d.bytes, link(node), at(1)), Ok(()));
        }
        for d in a.take_outbox() {
            assert!(
                d.bytes.len() <= envelope::LEN_MAX,
                "{} bytes",
                d.bytes.len()
            );
        }
    }
    assert_eq!(a.agreed().parts.len(), 200);
}

proptest! {
    /// Whoever has the key may say anything: it is taken or refused, and all goes on.
    #[test]
    fn authentic_nonsense_does_no_harm(
        bodies in proptest::collection::vec((1..6u8, any::<Vec<u8>>()), 1..8),
        records in proptest::collection::vec(any_record(), 0..4),
        swim: Vec<u8>,
    ) {
        let (mut a, mut b) = pair();
        let mut counter = 1000;
        let mut said: Vec<(Kind, Vec<u8>)> = bodies.into_iter().map(|(kind, body)| {
            (match kind {
                1 => Kind::Swim,
                2 => Kind::Records,
                3 => Kind::Wish,
                4 => Kind::Question,
                _ => Kind::Answer,
            }, body)
        }).collect();
        let mut known: Vec<u8> = records.iter().flat_map(body_of).collect();
        said.push((Kind::Records, known.clone()));
        let mut with_swim = (swim.len() as u16).to_be_bytes().to_vec();
        with_swim.extend(&swim);
        with_swim.append(&mut known);
        said.push((Kind::Swim, with_swim));
        for (kind, body) in said {
            counter += 1;
            let o = Outside { kind, ..outside(2, counter) };
            let _ = a.hear(&sealed(&o, &body), link(2), at(5));
            let next = a.next();
            a.tick(next.max(at(6)));
        }
        for d in a.take_outbox() {
            prop_assert!(d.bytes.len() <= envelope::LEN_MAX);
        }
        // The honest ones go on.
        let _ = b.take_outbox();
        b.set_own(at(20), |r| r.weight = 33);
        for d in b.take_outbox().iter().filter(|d| d.to == link(1)) {
            prop_assert_eq!(a.hear(&d.bytes, link(2), at(21)), Ok(()));
        }
    }

    #[test]
    fn noise_is_refused_and_changes_nothing(bytes: Vec<u8>) {
        let mut a = core(1);
        let before = a.members();
        prop_assert!(a.hear(&bytes, link(2), at(1)).is_err());
        prop_assert_eq!(a.members(), before);
    }
}
