//! The rules, and checks of real sockets and programs.

use super::*;
use crate::testkit::{config, until};
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks (p: passed, f: failed, F: failed after a sign) and what is believed after each.
fn believed(rise: u8, fall: u8, checks: &str) -> String {
    let mut state = State::new(rise, fall);
    assert!(state.healthy(), "nothing is known");
    let mut last = state.healthy();
    let step = |check| {
        let known = state.healthy.is_some();
        let changed = state.checked(check == 'p', check == 'F');
        let healthy = state.healthy();
        assert_eq!(changed, healthy != last || !known, "{checks}");
        last = healthy;
        if healthy { '+' } else { '-' }
    };
    checks.chars().map(step).collect()
}

#[test]
fn thresholds() {
    // The first check is believed at once.
    assert_eq!(believed(2, 3, "p"), "+");
    assert_eq!(believed(2, 3, "f"), "-");
    assert_eq!(believed(2, 3, "pfff"), "+++-");
    assert_eq!(believed(2, 3, "pffpffpfff"), "+++++++++-", "in a row");
    assert_eq!(believed(2, 3, "fpp"), "--+");
    assert_eq!(believed(2, 3, "fpfpfpp"), "------+", "in a row");
    assert_eq!(believed(1, 1, "pfpf"), "+-+-");
    assert_eq!(believed(100, 100, &"f".repeat(200)), "-".repeat(200));
    // A sign and a failed check: at once. A sign and a passed one: nothing.
    assert_eq!(believed(2, 3, "pF"), "+-");
    assert_eq!(believed(2, 3, "pfF"), "++-");
    assert_eq!(believed(2, 3, "pFpp"), "+--+");
}

/// A server that gives `answer` to each of its clients once a request is there.
fn server(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte).unwrap() == 0 {
                break;
            }
            bytes.extend(byte);
        }
        // In pieces, as a network may.
        for piece in answer.chunks(7) {
            client.write_all(piece).unwrap();
        }
        String::from_utf8(bytes).unwrap()
    });
    (at, thread)
}

fn http(status: &[u16]) -> Check {
    Check::Http {
        path: "/health?x".into(),
        host: Some("www.example".into()),
        status: status.to_vec(),
    }
}

#[test]
fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    probe(&Check::Tcp, at, TIMEOUT).unwrap();
    drop(listener);
    let error = probe(&Check::Tcp, at, TIMEOUT).unwrap_err();
    assert!(matches!(error, Failed::Io(_)), "{error}");
}

#[test]
fn http_requests() {
    const GOOD: &[u8] = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n";
    let (at, thread) = server(GOOD);
    probe(&http(&[200, 204]), at, TIMEOUT).unwrap();
    let request = thread.join().unwrap();
    let first = "GET /health?x HTTP/1.1\r\nHost: www.example\r\n";
    assert!(request.starts_with(first), "{request}");
    let without = Check::Http {
        path: "/".into(),
        host: None,
        status: vec![204],
    };
    let (at, thread) = server(GOOD);
    probe(&without, at, TIMEOUT).unwrap();
    assert!(thread.join().unwrap().contains("\r\nHost: 127.0.0.1\r\n"));
    let fails = |answer| {
        let (at, thread) = server(answer);
        let error = probe(&http(&[200]), at, TIMEOUT).unwrap_err();
        thread.join().unwrap();
        error
    };
    assert!(matches!(fails(GOOD), Failed::Status(204)));
    assert!(matches!(fails(b"SSH-2.0-x\r\n\r\n"), Failed::NoAnswer));
    assert!(matches!(
        fails(b"HTTP/1.1 200 OK\r\nA: b"),
        Failed::NoAnswer
    ));
    assert!(matches!(fails(b""), Failed::NoAnswer));
}

#[test]
fn a_silent_server_is_given_its_time() {
    // It accepts, as the kernel does, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let start = Instant::now();
    let error = probe(&http(&[200]), at, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, Failed::Late), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(100));
    probe(&Check::Tcp, at, TIMEOUT).unwrap();
}

#[test]
fn a_server_that_drips_is_given_no_more_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        while client.write_all(b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let error = probe(&http(&[200]), at, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, Failed::Late | Failed::NoAnswer), "{error}");
}

#[test]
fn commands() {
    let at = ([127, 0, 0, 1], 1).into();
    let run = |line: &str, timeout| {
        let words = ["/bin/sh", "-c", line].map(String::from).to_vec();
        probe(&Check::Command(words), at, timeout)
    };
    run("exit 0", TIMEOUT).unwrap();
    match run("exit 3", TIMEOUT) {
        Err(Failed::Command(status)) => assert_eq!(status.code(), Some(3)),
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    let late = run("exec sleep 60", Duration::from_millis(100));
    assert!(matches!(late, Err(Failed::Late)), "{late:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "it is killed");
    let none = Check::Command(vec!["/nonexistent".into()]);
    assert!(matches!(probe(&none, at, TIMEOUT), Err(Failed::Io(_))));
}

#[derive(Default)]
struct Told(Mutex<HashMap<String, Vec<bool>>>);

impl HealthSink for Told {
    fn set(&self, service: &str, healthy: bool) {
        let mut told = self.0.lock().unwrap();
        told.entry(service.to_owned()).or_default().push(healthy);
    }
}

#[test]
fn a_service_that_goes_and_comes_is_told_of() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut config = config();
    let service = &mut config.services[0];
    (service.vip, service.application_port) = (at.ip(), at.port());
    service.health = Some(Health {
        check: Check::Tcp,
        interval: Duration::from_millis(60),
        timeout: Duration::from_millis(60),
        rise: 2,
        fall: 3,
    });
    let mut unchecked = service.clone();
    (unchecked.name, unchecked.health) = ("unchecked".into(), None);
    config.services.push(unchecked);
    let told = Arc::new(Told::default());
    let sink: Arc<dyn HealthSink> = Arc::clone(&told) as _;
    let registry = Registry::new();
    let metrics = Arc::new(HealthMetrics::new(&registry).unwrap());
    let refused = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&refused);
    let refusals: Refusals = Arc::new(move || count.load(Ordering::Relaxed));
    let checks = Checks::start(&config, &sink, &metrics, &refusals).unwrap();
    let heard = |n: usize| {
        until(|| {
            told.0
                .lock()
                .unwrap()
                .get("web")
                .is_some_and(|t| t.len() == n)
        });
        told.0.lock().unwrap()["web"].clone()
    };
    assert_eq!(heard(1), [true]);
    drop(listener);
    assert_eq!(heard(2), [true, false]);
    assert_eq!(metrics.healthy.with_label_values(&["web"]).get(), 0);
    // Each of the three that it took.
    assert!(metrics.checks.with_label_values(&["web", "failed"]).get() >= 3);
    let listener = TcpListener::bind(at).unwrap();
    assert_eq!(heard(3), [true, false, true]);
    assert_eq!(metrics.healthy.with_label_values(&["web"]).get(), 1);
    drop(checks);
    assert_eq!(
        told.0.lock().unwrap().len(),
        1,
        "the other one has no check"
    );

    // A sign: one failed check is enough, and it does not wait for its time.
    config.services[0].health.as_mut().unwrap().interval = Duration::from_secs(600);
    let checks = Checks::start(&config, &sink, &metrics, &refusals).unwrap();
    assert_eq!(heard(4).last(), Some(&true));
    drop(listener);
    refused.fetch_add(1, Ordering::Relaxed);
    assert_eq!(heard(5).last(), Some(&false));
    drop(checks);
}
