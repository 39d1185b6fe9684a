//! The proxy in front of a daemon that only speaks the RPC.

mod lab;

use dts_proto::rpc::FailCode;
use lab::{CONFIG, Lab, PATIENCE, REQUEST, done, failed, rest};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn single_bytes_and_half_close() {
    let lab = Lab::new(CONFIG, |_, _| Some(done()));
    let mut client = lab.client();
    for byte in REQUEST {
        client.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "moved");
    assert_eq!(lab.asked().1, REQUEST);
    lab.expect(|c| &c.moved, 1);
    lab.stop();
}

#[test]
fn what_was_read_behind_the_head_is_passed_on() {
    let lab = Lab::new(CONFIG, |_, _| Some(done()));
    let mut client = lab.client();
    let body = vec![b'x'; 100_000];
    client.write_all(&[REQUEST, &body].concat()).unwrap();
    assert_eq!(rest(&mut client), "moved");
    let (_, request) = lab.asked();
    assert!(request.starts_with(REQUEST));
    assert!(request[REQUEST.len()..].iter().all(|&byte| byte == b'x'));
    assert!(request.len() <= 512, "no more than head_bytes is ever read");
    lab.stop();
}

#[test]
fn rules_choose_the_destination() {
    let lab = Lab::new(CONFIG, |_, _| Some(done()));
    let mut client = lab.client();
    client.write_all(b"GET /b/1 HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(lab.asked().0, "10.77.1.4:80".parse().unwrap());
    let mut firsts = std::collections::HashSet::new();
    for _ in 0..5 {
        lab.client().write_all(REQUEST).unwrap();
        firsts.insert(lab.asked().0);
    }
    assert_eq!(firsts.len(), 1, "one path, one member");
    lab.stop();
}

#[test]
fn one_listener_for_both_families_and_members_of_ipv6() {
    let config = CONFIG.replace("address: 10.77.1.4:80", "address: \"[fd77:0:0:1::4]:80\"");
    let lab = Lab::on("[::]:0", &config, |_, _| Some(done()));
    let port = lab.address.port();
    for address in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let mut client = lab.client_at(address);
        client
            .write_all(b"GET /b/1 HTTP/1.1\r\nHost: [fd77::100]:80\r\n\r\n")
            .unwrap();
        assert_eq!(rest(&mut client), "moved");
        assert_eq!(lab.asked().0, "[fd77:0:0:1::4]:80".parse().unwrap());
    }
    lab.stop();
}

#[test]
fn refused_unreachable_aborted_go_to_the_next_member() {
    for code in FailCode::ALL.into_iter().filter(|c| c.retry_elsewhere()) {
        let asked = AtomicU64::new(0);
        let lab = Lab::new(CONFIG, move |_, _| {
            let last = asked.fetch_add(1, Ordering::Relaxed) == 2;
            Some(if last { done() } else { failed(code) })
        });
        let mut client = lab.client();
        client.write_all(REQUEST).unwrap();
        assert_eq!(rest(&mut client), "moved");
        let three: Vec<_> = (0..3).map(|_| lab.asked()).collect();
        assert!(three.iter().all(|(_, request)| request == REQUEST));
        let unique: std::collections::HashSet<_> = three.iter().map(|(dest, _)| dest).collect();
        assert_eq!(unique.len(), 3, "{three:?}");
        lab.stop();
    }
}

#[test]
fn retries_are_bounded_and_the_local_member_comes_last() {
    for (extra, asked) in [("retries: 1\n", 2), ("retries: 1\nlocal: ", 3)] {
        // The member that is not among the first two, found by trying all.
        let locals = ["10.77.1.1", "10.77.1.2", "10.77.1.3"];
        let counts = locals.map(|local| {
            let extra = extra.replace("local: ", &format!("local: {local}\n"));
            let lab = Lab::new(&format!("{CONFIG}{extra}"), |_, _| {
                Some(failed(FailCode::Refused))
            });
            let mut client = lab.client();
            client.write_all(REQUEST).unwrap();
            assert_eq!(rest(&mut client), "");
            lab.expect(|c| &c.failed, 1);
            let dests: Vec<_> = lab.asked.try_iter().map(|(dest, _)| dest).collect();
            lab.stop();
            dests.len()
        });
        assert_eq!(counts.into_iter().max(), Some(asked));
        assert_eq!(counts.into_iter().min(), Some(2));
    }
}

#[test]
fn unknown_and_final_answers_are_asked_once() {
    for code in FailCode::ALL {
        if code.retry_elsewhere() || code == FailCode::Busy {
            continue;
        }
        let lab = Lab::new(CONFIG, move |_, _| Some(failed(code)));
        let mut client = lab.client();
        client.write_all(REQUEST).unwrap();
        assert_eq!(rest(&mut client), "");
        lab.asked();
        match code {
            FailCode::Unknown => lab.expect(|c| &c.unknown, 1),
            _ => lab.expect(|c| &c.failed, 1),
        }
        lab.stop();
    }
}

#[test]
fn a_daemon_that_dies_with_the_request_is_unknown() {
    let asked = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&asked);
    let lab = Lab::new(CONFIG, move |_, _| {
        seen.fetch_add(1, Ordering::Relaxed);
        None
    });
    let mut client = lab.client();
    client.write_all(REQUEST).unwrap();
    assert_eq!(rest(&mut client), "");
    lab.expect(|c| &c.unknown, 1);
    lab.stop();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "never asked twice");
}

#[test]
fn busy_is_asked_again_at_the_same_member() {
    let asked = AtomicU64::new(0);
    let lab = Lab::new(CONFIG, move |_, _| {
        let busy = asked.fetch_add(1, Ordering::Relaxed) < 3;
        Some(if busy { failed(FailCode::Busy) } else { done() })
    });
    let mut client = lab.client();
    client.write_all(REQUEST).unwrap();
    assert_eq!(rest(&mut client), "moved");
    let dests: std::collections::HashSet<_> = (0..4).map(|_| lab.asked().0).collect();
    assert_eq!(dests.len(), 1);
    lab.stop();
}

#[test]
fn bad_heads_are_closed_and_nobody_is_asked() {
    let lab = Lab::new(CONFIG, |_, _| Some(done()));
    let oversize = [b"GET / HTTP/1.1\r\nA: ", &[b'a'; 600][..]].concat();
    for bad in [&b"\x16\x03\x01"[..], b"GET /\r\n\r\n", &oversize] {
        let mut client = lab.client();
        client.write_all(bad).unwrap();
        assert_eq!(rest(&mut client), "");
    }
    lab.expect(|c| &c.bad, 3);
    let mut client = lab.client();
    client.write_all(&REQUEST[..10]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    lab.expect(|c| &c.gone, 1);
    lab.stop();
}

#[test]
fn slow_heads_are_closed() {
    let config = CONFIG.replace("20000", "50");
    let lab = Lab::new(&config, |_, _| Some(done()));
    let mut client = lab.client();
    client.write_all(&REQUEST[..10]).unwrap();
    assert_eq!(rest(&mut client), "");
    lab.expect(|c| &c.slow, 1);
    lab.stop();
}

#[test]
fn two_hundred_at_once() {
    // As many as may be under way are, before the first is answered.
    let barrier = Barrier::new(100);
    let lab = Lab::new(CONFIG, move |_, _| {
        barrier.wait();
        Some(done())
    });
    let mut clients: Vec<_> = (0..200).map(|_| lab.client()).collect();
    for client in &mut clients {
        client.write_all(REQUEST).unwrap();
    }
    for client in &mut clients {
        assert_eq!(rest(client), "moved");
    }
    lab.expect(|c| &c.moved, 200);
    assert_eq!(lab.asked.try_iter().count(), 200);
    lab.stop();
}

#[test]
fn tls_server_name() {
    let config = CONFIG
        .replace("listen", "protocol: tls\nlisten")
        .replace("path_prefix: /b/", "sni: b.example");
    let lab = Lab::new(&config, |_, _| Some(done()));
    // ClientHello for b.example without anything that is not needed.
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 18, 0, 0, 0, 14, 0, 12, 0, 0, 9]);
    body.extend(b"b.example");
    let mut hello = vec![1, 0, 0, body.len() as u8];
    hello.extend(body);
    let mut bytes = Vec::new();
    for part in hello.chunks(20) {
        bytes.extend([22, 3, 1, 0, part.len() as u8]);
        bytes.extend(part);
    }
    let mut client = lab.client();
    for byte in &bytes {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(rest(&mut client), "moved");
    assert_eq!(lab.asked(), ("10.77.1.4:80".parse().unwrap(), bytes));
    lab.stop();
}

#[test]
fn a_stop_lets_the_handover_under_way_finish() {
    let (arrived, arrival) = channel::<()>();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new((arrived, wait));
    let lab = Lab::new(CONFIG, move |_, _| {
        let (arrived, wait) = &*wait.lock().unwrap();
        arrived.send(()).unwrap();
        wait.recv().unwrap();
        Some(done())
    });
    let mut client = lab.client();
    let mut idle = lab.client();
    client.write_all(REQUEST).unwrap();
    lab.expect(|c| &c.accepted, 2);
    arrival.recv_timeout(PATIENCE).unwrap();
    lab.stop.send_replace(true);
    assert_eq!(rest(&mut idle), "");
    go.send(()).unwrap();
    assert_eq!(rest(&mut client), "moved");
    lab.asked();
    lab.stop();
}

#[test]
fn sigterm_ends_the_program_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.yaml");
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    std::fs::write(
        &file,
        CONFIG.replace("127.0.0.1:1", &format!("127.0.0.1:{port}")),
    )
    .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dts-proxy"))
        .arg("--config")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
