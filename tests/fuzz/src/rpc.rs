//! The RPC's messages: any bytes, and values there and back.

use crate::input::Input;
use dts_proto::rpc::{
    Answer, Done, FailCode, MAX_MESSAGE, MAX_REASON, Node, NodeState, Replay, Request,
    ServiceState, decode_answer, decode_request, encode_answer, encode_nodes_request,
    encode_request,
};
use std::net::SocketAddr;

/// Runs one input: its first byte says which part.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    match u.next::<u8>() & 3 {
        0 => request_bytes(u.rest()),
        1 => answer_bytes(u.rest()),
        2 => request(&mut u),
        _ => answer(&mut u),
    }
}

/// What is understood means the same when it is said again.
fn request_bytes(bytes: &[u8]) {
    if let Ok(r) = decode_request(bytes) {
        let again = match &r {
            Request::Handover {
                dest,
                sent_ns,
                request,
            } => encode_request(*dest, *sent_ns, request),
            Request::Nodes => encode_nodes_request(),
        };
        let again = again.expect("it fitted before");
        assert!(again.len() <= bytes.len(), "the shortest form");
        assert_eq!(decode_request(&again), Ok(r));
    }
}

fn answer_bytes(bytes: &[u8]) {
    if let Ok(a) = decode_answer(bytes) {
        let again = encode_answer(&a).expect("it fitted before");
        if !matches!(&a, Answer::Failed { reason, .. } if reason.len() > MAX_REASON) {
            assert_eq!(decode_answer(&again), Ok(a));
        }
    }
}

fn request(u: &mut Input<'_>) {
    let dest = if u.next::<bool>() {
        SocketAddr::from((u.next::<[u8; 4]>(), u.next::<u16>()))
    } else {
        SocketAddr::from((u.next::<[u8; 16]>(), u.next::<u16>()))
    };
    let sent_ns = u.next();
    let request = u.rest();
    let bytes = encode_request(dest, sent_ns, request).expect("a small request");
    assert!(bytes.len() <= MAX_MESSAGE);
    let request = request.to_vec();
    assert_eq!(
        decode_request(&bytes),
        Ok(Request::Handover {
            dest,
            sent_ns,
            request
        })
    );
    for n in 0..bytes.len().min(64) {
        assert!(decode_request(&bytes[..n]).is_err(), "cut to {n}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(decode_request(&longer).is_err());
}

fn answer(u: &mut Input<'_>) {
    let a = match u.next::<u8>() {
        first if first & 2 != 0 => Answer::Nodes(nodes(u)),
        first if first & 1 != 0 => Answer::Done(Done {
            node: u.next(),
            replay: u.pick(&[Replay::FastOpen, Replay::Handshake]),
            micros: u.next(),
        }),
        _ => Answer::Failed {
            code: u.pick(&FailCode::ALL),
            reason: String::from_utf8_lossy(u.rest()).repeat(1 + u.below(9)),
        },
    };
    let bytes = encode_answer(&a).expect("an answer always fits");
    assert!(bytes.len() <= MAX_MESSAGE);
    let b = decode_answer(&bytes).expect("what was said is understood");
    match (&a, &b) {
        (Answer::Failed { reason, .. }, Answer::Failed { reason: cut, .. }) => {
            assert!(reason.starts_with(cut.as_str()));
            assert!(cut.len() == reason.len() || cut.len() > MAX_REASON - 4);
        }
        _ => assert_eq!(a, b),
    }
}

fn nodes(u: &mut Input<'_>) -> Vec<Node> {
    let states = [
        NodeState::Active,
        NodeState::Draining,
        NodeState::Standby,
        NodeState::Dead,
    ];
    let service = |u: &mut Input<'_>| ServiceState {
        port: u.next(),
        healthy: u.next(),
        connections: u.next(),
        age_ms: u.next(),
    };
    let count = u.below(20);
    (0..count)
        .map(|_| {
            let services = u.below(4);
            Node {
                id: u.next(),
                link: u.next::<[u8; 4]>().into(),
                state: u.pick(&states),
                services: (0..services).map(|_| service(u)).collect(),
            }
        })
        .collect()
}
