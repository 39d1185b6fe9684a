//! The datagram, who is believed, and two nodes on loopback.

use super::*;
use crate::metrics::Metrics;
use crate::snapshot::{Boot, build};
use crate::testkit::{config, until};
use dts_config::NodeId;

fn report() -> Report {
    Report {
        node: 0x0102,
        incarnation: 0x0304_0506_0708_090a,
        counter: 0x0b0c_0d0e_0f10_1112,
        said: vec![
            Said {
                port: 80,
                healthy: true,
                connections: 300,
            },
            Said {
                port: 25,
                healthy: false,
                connections: 0,
            },
        ],
    }
}

fn key(id: u8) -> LinkKey {
    LinkKey::new(id, b"0123456789abcdef")
}

#[test]
fn golden_bytes() {
    let bytes = report().encode(&key(1));
    let body = [
        0x44, 0x54, 0x53, 0x52, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
        18, 0, 80, 0, 1, 0, 0, 1, 44, 0, 25, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes[..40], body);
    assert_eq!(bytes.len(), 56);
    assert_eq!(Report::decode(&bytes, &[key(1)]), Ok(report()));
}

#[test]
fn every_bit_and_length_is_covered() {
    let good = report().encode(&key(1));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let keys = [key(1), key(0), key(3)];
        assert!(Report::decode(&bad, &keys).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(Report::decode(&good[..len], &[key(1)]).is_err(), "{len}");
    }
    let longer = [&good[..], &[0; 8]].concat();
    assert_eq!(Report::decode(&longer, &[key(1)]), Err(ReportError::Forged));
    assert_eq!(Report::decode(&good, &[key(2)]), Err(ReportError::Forged));
    assert_eq!(Report::decode(&good, &[key(1), key(2)]), Ok(report()));
}

#[test]
fn what_is_authentic_and_makes_no_sense_is_refused() {
    let with = |port: u16, flags: u16| {
        let mut bytes = report().encode(&key(1));
        bytes.truncate(40);
        bytes[24..26].copy_from_slice(&port.to_be_bytes());
        bytes[26..28].copy_from_slice(&flags.to_be_bytes());
        let tag = key(1).tag(CONTEXT, &bytes);
        bytes.extend_from_slice(&tag);
        Report::decode(&bytes, &[key(1)]).map(|r| r.said[0].healthy)
    };
    assert_eq!(with(80, 1), Ok(true));
    assert_eq!(with(80, 0), Ok(false));
    assert_eq!(with(0, 1), Err(ReportError::Malformed));
    assert_eq!(with(80, 2), Err(ReportError::Malformed));
}

#[test]
fn many_ports_are_cut() {
    let mut many = report();
    many.said = (1..200)
        .map(|port| Said {
            port,
            ..report().said[0]
        })
        .collect();
    let bytes = many.encode(&key(1));
    assert_eq!(bytes.len(), LEN_MAX);
    many.said.truncate(PORTS);
    assert_eq!(Report::decode(&bytes, &[key(1)]), Ok(many));
}

fn view_of(node: u16) -> View {
    let mut config = config();
    config.node = NodeId(node);
    let boot = Boot {
        incarnation: 5,
        steer_key: [0; 16],
    };
    build(&config, boot, [2; 6], [4; 6])
}

#[test]
fn only_news_of_members_from_their_own_address_is_heard() {
    let view = view_of(1);
    let mut heard = Heard::default();
    let mut hear = |node, incarnation, counter, last| {
        let report = Report {
            node,
            incarnation,
            counter,
            said: vec![],
        };
        let bytes = report.encode(&view.keys[0]);
        let from = Addr::v4([127, 0, 0, last]);
        heard.hear(&bytes, from, &view).map(|r| r.counter)
    };
    assert_eq!(hear(2, 7, 1, 2), Ok(1));
    assert_eq!(hear(2, 7, 1, 2), Err("replayed"));
    assert_eq!(hear(2, 7, 3, 2), Ok(3));
    assert_eq!(hear(2, 7, 2, 2), Err("replayed"));
    assert_eq!(hear(2, 8, 1, 2), Ok(1));
    assert_eq!(hear(2, 7, 9, 2), Err("replayed"));
    assert_eq!(hear(2, 9, 1, 3), Err("stranger"));
    assert_eq!(hear(3, 9, 1, 3), Err("stranger"));
    assert_eq!(
        hear(1, 9, 1, 1),
        Err("stranger"),
        "nobody speaks for this node"
    );
    assert_eq!(
        heard.hear(b"DTSR", Addr::v4([127, 0, 0, 2]), &view),
        Err("malformed")
    );
}

#[test]
fn two_nodes_tell_each_other() {
    let mut config = config();
    // A port that nobody else of these tests uses.
    (config.reports.port, config.reports.interval) = (17_947, Duration::from_millis(20));
    let node = |id| {
        let views = Arc::new(ArcSwap::from_pointee(view_of(id)));
        let board = Arc::new(Board::new(Arc::clone(&views)));
        let metrics = Metrics::new().unwrap();
        let reports = Reports::start(
            &config.reports,
            views,
            Arc::clone(&board),
            Arc::clone(&metrics.reports),
        )
        .unwrap();
        (board, metrics, reports)
    };
    let (one, metrics, _one) = node(1);
    let (two, _, _two) = node(2);
    let services = |board: &Board, of: usize| board.nodes(Instant::now())[of].services.clone();
    until(|| services(&one, 1).len() == 1 && services(&two, 0).len() == 1);
    let first = services(&one, 1)[0];
    assert_eq!(
        (first.port, first.healthy, first.connections),
        (80, true, 0)
    );
    crate::board::HealthSink::set(&*two, "web", false);
    until(|| !services(&one, 1)[0].healthy);
    assert!(
        services(&one, 0)[0].healthy,
        "of itself it says something else"
    );
    assert!(metrics.reports.get("accepted") > 1);
    let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
    stranger.send_to(b"x", "127.0.0.1:17947").unwrap();
    until(|| metrics.reports.get("malformed") == 1);
}
