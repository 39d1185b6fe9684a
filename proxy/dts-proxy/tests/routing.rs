//! Health, room and refusals, with real clients and a daemon that only speaks the RPC.

mod lab;

use dts_proto::rpc::{FailCode, NodeState};
use lab::{CONFIG, Lab, PATIENCE, REQUEST, done, failed, node, rest};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const ANSWER_503: &str = "HTTP/1.1 503 Service Unavailable\r\n";

/// The configuration with keys added to its first pool.
fn with(keys: &str) -> String {
    CONFIG.replace("{ name: a, ", &format!("{{ name: a, {keys}, "))
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 1, n], 80))
}

fn ask(lab: &Lab, path: &str) -> TcpStream {
    let mut client = lab.client();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    client
}

/// Everybody whom connections for many paths go to.
fn used(lab: &Lab) -> HashSet<SocketAddr> {
    let to = |i| {
        assert_eq!(rest(&mut ask(lab, &format!("/a/{i}"))), "moved");
        lab.asked().0
    };
    (0..40).map(to).collect()
}

#[test]
fn an_unhealthy_or_absent_node_gets_nothing_and_comes_back() {
    let lab = Lab::new(CONFIG, |_, _| Some(done()));
    assert_eq!(used(&lab).len(), 3);
    lab.tell(vec![node(1, true, 0), node(2, false, 0), node(3, true, 0)]);
    assert_eq!(used(&lab), HashSet::from([address(1), address(3)]));
    let mut draining = node(3, true, 0);
    draining.state = NodeState::Draining;
    lab.tell(vec![node(1, true, 0), node(2, false, 0), draining]);
    assert_eq!(used(&lab), HashSet::from([address(1)]));
    lab.tell(vec![node(1, true, 0), node(2, true, 0), node(3, true, 0)]);
    assert_eq!(used(&lab).len(), 3);
    lab.stop();
}

#[test]
fn the_least_loaded_by_the_nodes_counts() {
    let lab = Lab::new(&with("balance: least-connections"), |_, _| Some(done()));
    lab.tell(vec![
        node(1, true, 50),
        node(2, true, 900),
        node(3, true, 900),
    ]);
    assert_eq!(used(&lab), HashSet::from([address(1)]));
    lab.tell(vec![
        node(1, true, 900),
        node(2, true, 50),
        node(3, true, 900),
    ]);
    assert_eq!(used(&lab), HashSet::from([address(2)]));
    lab.stop();
}

#[test]
fn whom_nobody_takes_is_told_as_the_pool_says() {
    let nobody = || (1..=3).map(|n| node(n, false, 0)).collect();
    for unavailable in ["close", "reset", "503"] {
        let config = with(&format!("unavailable: {unavailable}"));
        let lab = Lab::new(&config, |_, _| Some(failed(FailCode::Refused)));
        lab.tell(nobody());
        // First nobody is asked at all, then all that are asked refuse.
        for (unhealthy, refused) in [(1, 0), (1, 1)] {
            let mut client = ask(&lab, "/a/1");
            let mut bytes = Vec::new();
            let read = client.read_to_end(&mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            match (unavailable, read) {
                ("close", Ok(_)) => assert_eq!(text, ""),
                ("503", Ok(_)) => {
                    assert!(text.starts_with(ANSWER_503), "{text}");
                    assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
                }
                ("reset", Err(error)) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                (_, read) => panic!("{unavailable}: {read:?}, {text:?}"),
            }
            drop(client);
            lab.expect(|c| &c.unavailable, unhealthy);
            lab.expect(|c| &c.failed, refused);
            if refused == 0 {
                lab.tell((1..=3).map(|n| node(n, true, 0)).collect());
            }
        }
        assert_eq!(lab.asked.try_iter().count(), 3, "all three were asked once");
        lab.stop();
    }
}

#[test]
fn a_503_is_read_whole_by_a_client_that_goes_on_sending() {
    let lab = Lab::new(&with("unavailable: 503"), |_, _| Some(done()));
    lab.tell((1..=3).map(|n| node(n, false, 0)).collect());
    let mut client = lab.client();
    let body = vec![b'x'; 200_000];
    client.write_all(REQUEST).unwrap();
    // Whatever is left of it when the answer is there need not arrive.
    let _ = client.write_all(&body);
    let mut first = vec![0; ANSWER_503.len()];
    client.read_exact(&mut first).unwrap();
    assert_eq!(String::from_utf8(first).unwrap(), ANSWER_503);
    lab.stop();
}

#[test]
fn an_unknown_outcome_is_never_answered() {
    let lab = Lab::new(&with("unavailable: 503"), |_, _| {
        Some(failed(FailCode::Unknown))
    });
    assert_eq!(rest(&mut ask(&lab, "/a/1")), "");
    lab.asked();
    lab.expect(|c| &c.unknown, 1);
    lab.stop();
}

/// Three members with room for one connection each, whose handovers take as long as the
/// test wants.
fn full(queue: &str, more: &str) -> (Lab, std::sync::mpsc::Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let keys = format!("max_connections: 1, queue: {{ {queue} }}, unavailable: 503{more}");
    let lab = Lab::new(&with(&keys), move |_, _| {
        wait.lock().unwrap().recv().unwrap();
        Some(done())
    });
    lab.tell((1..=3).map(|n| node(n, true, 0)).collect());
    (lab, go)
}

#[test]
fn who_finds_no_room_waits_and_is_let_in() {
    let (lab, go) = full("length: 1, timeout_ms: 20000", "");
    let clients: Vec<_> = (0..3).map(|i| ask(&lab, &format!("/a/{i}"))).collect();
    // All three are under way before the fourth comes, and it waits before the fifth.
    lab.expect(|c| &c.accepted, 3);
    lab.expect_at_the_gate(3, 0);
    let mut fourth = ask(&lab, "/a/4");
    lab.expect_at_the_gate(3, 1);
    let mut fifth = ask(&lab, "/a/5");
    let mut text = String::new();
    fifth.read_to_string(&mut text).unwrap();
    assert!(text.starts_with(ANSWER_503), "{text}");
    drop(fifth);
    for _ in 0..4 {
        go.send(()).unwrap();
    }
    for mut client in clients {
        assert_eq!(rest(&mut client), "moved");
    }
    // Handovers that came about count until the nodes have counted them.
    lab.tell((1..=3).map(|n| node(n, true, 0)).collect());
    assert_eq!(rest(&mut fourth), "moved");
    let dests: Vec<_> = (0..4).map(|_| lab.asked().0).collect();
    assert_eq!(dests[..3].iter().collect::<HashSet<_>>().len(), 3);
    lab.expect(|c| &c.moved, 4);
    lab.expect(|c| &c.unavailable, 1);
    lab.stop();
}

#[test]
fn who_waits_too_long_is_sent_away() {
    let (lab, go) = full("length: 9, timeout_ms: 200", "");
    let clients: Vec<_> = (0..3).map(|i| ask(&lab, &format!("/a/{i}"))).collect();
    lab.expect_at_the_gate(3, 0);
    let start = Instant::now();
    let mut late = ask(&lab, "/a/4");
    let mut text = String::new();
    late.read_to_string(&mut text).unwrap();
    let took = start.elapsed();
    assert!(text.starts_with(ANSWER_503), "{text}");
    assert!(
        took >= Duration::from_millis(200) && took < PATIENCE,
        "{took:?}"
    );
    drop(late);
    for _ in 0..3 {
        go.send(()).unwrap();
        lab.asked();
    }
    for mut client in clients {
        assert_eq!(rest(&mut client), "moved");
    }
    lab.stop();
}

#[test]
fn with_wait_another_member_is_asked_only_after_the_time() {
    let (lab, go) = full("length: 9, timeout_ms: 200", ", full: wait");
    let first = ask(&lab, "/a/1");
    lab.expect_at_the_gate(1, 0);
    let start = Instant::now();
    // The same path: the same member, which has no room; two others have.
    let second = ask(&lab, "/a/1");
    lab.expect_at_the_gate(1, 1);
    lab.expect_at_the_gate(2, 0);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    for _ in 0..2 {
        go.send(()).unwrap();
        lab.asked();
    }
    for mut client in [first, second] {
        assert_eq!(rest(&mut client), "moved");
    }
    lab.expect(|c| &c.moved, 2);
    lab.stop();
}
