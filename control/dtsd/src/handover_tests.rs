//! Handovers over real sockets and a scripted data plane.

use super::*;
use crate::metrics::Metrics;
use crate::testkit::{config, config_v6, settled, tcp_pair, tcp_pair_of};
use dts_core::time::Span;
use dts_proto::block::Reason;
use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\n\r\n";

/// What the scripted worker answers to a freeze, and to a splice.
#[derive(Clone, Copy)]
struct Script {
    freeze: Option<Result<(), Fail>>,
    splice: Option<Result<Option<block::Replay>, Fail>>,
}

const GOOD: Script = Script {
    freeze: Some(Ok(())),
    splice: Some(Ok(Some(block::Replay::FastOpen))),
};

struct Scripted {
    script: Script,
    dispatcher: Arc<Dispatcher>,
    log: Mutex<Vec<Command>>,
    full: bool,
}

impl Plane for Scripted {
    fn workers(&self) -> usize {
        1
    }

    fn worker_of(&self, _: SocketAddr) -> usize {
        0
    }

    fn command(&self, _: usize, command: Command) -> Result<(), Command> {
        if self.full {
            return Err(command);
        }
        let event = match &command {
            Command::Freeze { ticket, .. } => self.script.freeze.map(|r| match r {
                Ok(()) => Event::Frozen {
                    ticket: *ticket,
                    at: dts_core::time::Instant(0),
                },
                Err(fail) => Event::Failed {
                    ticket: *ticket,
                    fail,
                },
            }),
            Command::Splice { ticket, .. } => self.script.splice.map(|r| match r {
                Ok(replay) => {
                    let steps = Steps {
                        spliced: Span::micros(10),
                        accepted: Span::micros(200),
                        buried: Span::micros(300),
                    };
                    Event::Done {
                        ticket: *ticket,
                        node: 2,
                        replay,
                        steps,
                    }
                }
                Err(fail) => Event::Failed {
                    ticket: *ticket,
                    fail,
                },
            }),
            Command::Unfreeze { .. }
            | Command::Flows { .. }
            | Command::Find { .. }
            | Command::Sockets { .. } => None,
        };
        self.log.lock().unwrap().push(command);
        if let Some(event) = event {
            self.dispatcher.deliver(event);
        }
        Ok(())
    }
}

struct Rig {
    plane: Arc<Scripted>,
    metrics: Metrics,
    handovers: Handovers,
}

fn rig_with(script: Script, full: bool) -> Rig {
    rig_of(script, full, &config())
}

fn rig_of(script: Script, full: bool, config: &dts_config::Config) -> Rig {
    let dispatcher = Arc::new(Dispatcher::default());
    let own = Arc::clone(&dispatcher);
    let plane = Arc::new(Scripted {
        script,
        dispatcher: own,
        log: Mutex::default(),
        full,
    });
    let metrics = Metrics::new().unwrap();
    let boot = crate::snapshot::Boot {
        incarnation: 1,
        steer_key: [0; 16],
    };
    let view = crate::snapshot::build(config, boot, [2; 6], [4; 6]);
    let limits = Limits {
        deadline: Duration::from_millis(30),
        first_window: 1000,
    };
    let handovers = Handovers::new(
        Arc::clone(&plane) as Arc<dyn Plane>,
        dispatcher,
        Arc::new(ArcSwap::from_pointee(view)),
        limits,
        Arc::clone(&metrics.handovers),
    );
    Rig {
        plane,
        metrics,
        handovers,
    }
}

fn rig(script: Script) -> Rig {
    rig_with(script, false)
}

fn dest() -> SocketAddr {
    ([127, 0, 0, 2], 80).into()
}

/// A connection on which the client has sent the request, half of it read.
fn asked() -> (TcpStream, TcpStream, &'static [u8]) {
    let (mut client, mut proxy) = tcp_pair();
    client.write_all(REQUEST).unwrap();
    settled(&proxy, REQUEST.len());
    std::io::Read::read_exact(&mut proxy, &mut [0; 7]).unwrap();
    (client, proxy, &REQUEST[..7])
}

impl Rig {
    fn run(&self, proxy: &TcpStream, passed: &[u8]) -> Answer {
        self.handovers
            .run(dest(), passed, Some(proxy.try_clone().unwrap().into()))
    }

    fn names(&self) -> Vec<&'static str> {
        let name = |c: &Command| match c {
            Command::Freeze { .. } => "freeze",
            Command::Splice { .. } => "splice",
            Command::Unfreeze { .. } => "unfreeze",
            Command::Flows { .. } => "flows",
            Command::Find { .. } => "find",
            Command::Sockets { .. } => "sockets",
        };
        self.plane.log.lock().unwrap().iter().map(name).collect()
    }
}

fn code(answer: &Answer) -> Option<FailCode> {
    match answer {
        Answer::Done(_) => None,
        Answer::Failed { code, .. } => Some(*code),
        Answer::Nodes(_) => panic!("the answer to another question"),
    }
}

/// Whether this process may close sockets silently, which takes a capability.
fn may_bury() -> bool {
    hostsock::silent_close(tcp_pair().1).is_ok()
}

fn buried(proxy: &TcpStream) -> bool {
    proxy.peer_addr().is_err()
}

/// Over IPv6, and over IPv4 at a listener for both: the data plane is told the
/// addresses that are on the wire.
#[test]
fn addresses_of_either_family() {
    for (listen, connect) in [("::1", "::1"), ("::", "127.0.0.1")] {
        let rig = rig_of(GOOD, false, &config_v6());
        let (mut client, proxy) = tcp_pair_of(listen, connect);
        client.write_all(REQUEST).unwrap();
        settled(&proxy, REQUEST.len());
        let to: SocketAddr = "[fd77::2]:80".parse().unwrap();
        let fd = proxy.try_clone().unwrap().into();
        let answer = rig.handovers.run(to, b"", Some(fd));
        assert_eq!(code(&answer), None, "{listen}");
        {
            let log = rig.plane.log.lock().unwrap();
            let Command::Freeze {
                client: peer,
                local,
                ..
            } = &log[0]
            else {
                unreachable!()
            };
            assert_eq!(*peer, client.local_addr().unwrap());
            assert_eq!(*local, client.peer_addr().unwrap());
            let Command::Splice { dest, request, .. } = &log[1] else {
                unreachable!()
            };
            assert_eq!((*dest, request.as_slice()), (to, REQUEST));
        }
        let record = &rig.handovers.history.newest(1)[0];
        assert_eq!((record.source, record.destination), (1, Some(2)));
        let json = serde_json::to_value(record).unwrap();
        assert_eq!(json["client"], client.local_addr().unwrap().to_string());
        assert!(!may_bury() || buried(&proxy), "{listen}");
    }
}

#[test]
fn a_handover_that_is_accepted() {
    let rig = rig(GOOD);
    let (client, proxy, passed) = asked();
    let Answer::Done(done) = rig.run(&proxy, passed) else {
        panic!("not done")
    };
    assert_eq!((done.node, done.replay), (2, Replay::FastOpen));
    assert!(done.micros >= 200);
    assert_eq!(rig.names(), ["freeze", "splice"]);
    let log = rig.plane.log.lock().unwrap();
    let Command::Freeze {
        client: peer,
        local,
        ..
    } = &log[0]
    else {
        unreachable!()
    };
    assert_eq!(
        (*peer, *local),
        (client.local_addr().unwrap(), proxy.local_addr().unwrap())
    );
    let Command::Splice {
        dest: to,
        request,
        client_fin,
        ..
    } = &log[1]
    else {
        unreachable!()
    };
    assert_eq!((*to, &request[..], *client_fin), (dest(), REQUEST, false));
    assert_eq!(buried(&proxy), may_bury());

    let record = &rig.handovers.history.newest(1)[0];
    assert_eq!(record.client, client.local_addr().unwrap());
    assert_eq!((record.source, record.destination), (1, Some(2)));
    assert_eq!(
        (record.outcome, record.replay),
        (Outcome::Accepted, Some("fast-open"))
    );
    assert_eq!(record.bytes, REQUEST.len());
    let times: Vec<u64> = record
        .steps
        .named()
        .iter()
        .map(|(_, t)| t.unwrap())
        .collect();
    assert!(
        times[0] <= times[1] && times[2] < times[3] && times[3] < times[4],
        "{times:?}"
    );
    let text = rig.metrics.text().unwrap();
    assert!(text.contains("dts_handovers_total{result=\"accepted\"} 1\n"));
    assert!(text.contains("dts_handover_duration_seconds_count 1\n"));
    assert!(text.contains("dts_handover_step_seconds_count{step=\"accept\"} 1\n"));
}

#[test]
fn a_half_close_travels_along() {
    let rig = rig(GOOD);
    let (client, proxy, passed) = asked();
    client.shutdown(Shutdown::Write).unwrap();
    crate::testkit::until(|| hostsock::peek_all(&proxy, 100).is_ok_and(|p| p.eof));
    assert_eq!(code(&rig.run(&proxy, passed)), None);
    let log = rig.plane.log.lock().unwrap();
    assert!(
        matches!(&log[1], Command::Splice { client_fin: true, request, .. } if request == REQUEST)
    );
}

#[test]
fn a_failed_check_unfreezes_and_leaves_the_socket() {
    let rig = rig(GOOD);
    let (_client, proxy, passed) = asked();
    assert_eq!(
        code(&rig.run(&proxy, &passed[..3])),
        Some(FailCode::NotEligible)
    );
    assert_eq!(rig.names(), ["freeze", "unfreeze"]);
    assert!(!buried(&proxy));
    let unread = hostsock::peek_all(&proxy, 100).unwrap();
    assert_eq!(unread.bytes, &REQUEST[7..]);
}

#[test]
fn a_request_above_the_window_is_not_eligible() {
    let rig = rig(GOOD);
    let (mut client, proxy) = tcp_pair();
    client.write_all(&[b'x'; 1001]).unwrap();
    settled(&proxy, 1001);
    assert_eq!(code(&rig.run(&proxy, b"")), Some(FailCode::NotEligible));
    assert_eq!(rig.names(), ["freeze", "unfreeze"]);
}

#[test]
fn every_failure_of_the_data_plane_has_its_code() {
    use FailCode as C;
    let cases = [
        (Fail::NoFlow, C::NotEligible, "not_eligible"),
        (Fail::Busy, C::Busy, "busy"),
        (Fail::BadDestination, C::Unreachable, "unreachable"),
        (Fail::Unreachable, C::Unreachable, "unreachable"),
        (Fail::TooLarge, C::NotEligible, "not_eligible"),
        (Fail::Unaccounted, C::NotEligible, "not_eligible"),
        (Fail::PaperForm, C::NotEligible, "not_eligible"),
        (Fail::Refused(Reason::NobodyListens), C::Refused, "refused"),
        (Fail::Aborted, C::Aborted, "aborted"),
        (Fail::Unknown, C::Unknown, "unknown"),
    ];
    for (fail, expected, label) in cases {
        let rig = rig(Script {
            splice: Some(Err(fail)),
            ..GOOD
        });
        let (_client, proxy, passed) = asked();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        rig.handovers.on_refusal(Box::new(move |dest, why| {
            listener.lock().unwrap().push((dest.ip().to_string(), why));
        }));
        let answer = rig.run(&proxy, passed);
        assert_eq!(code(&answer), Some(expected), "{fail:?}");
        let refusals = match fail {
            Fail::Refused(why) => vec![("127.0.0.2".to_owned(), why)],
            _ => vec![],
        };
        assert_eq!(*told.lock().unwrap(), refusals, "{fail:?}");
        // Only after an unknown outcome may the socket not be used again.
        assert_eq!(
            buried(&proxy),
            expected == C::Unknown && may_bury(),
            "{fail:?}"
        );
        let text = rig.metrics.text().unwrap();
        assert!(
            text.contains(&format!("dts_handovers_total{{result=\"{label}\"}} 1\n")),
            "{fail:?}"
        );
        if let (Fail::Refused(why), Answer::Failed { reason, .. }) = (fail, answer) {
            assert_eq!(reason, why.text());
        }
    }
}

#[test]
fn a_refused_freeze_needs_no_unfreeze() {
    let rig = rig(Script {
        freeze: Some(Err(Fail::NoFlow)),
        ..GOOD
    });
    let (_client, proxy, passed) = asked();
    assert_eq!(code(&rig.run(&proxy, passed)), Some(FailCode::NotEligible));
    assert_eq!(rig.names(), ["freeze"]);
}

#[test]
fn a_silent_data_plane_is_waited_for_only_so_long() {
    let (_client, proxy, passed) = asked();
    let start = Instant::now();
    let rig_a = rig(Script {
        freeze: None,
        ..GOOD
    });
    assert_eq!(code(&rig_a.run(&proxy, passed)), Some(FailCode::Busy));
    assert_eq!(rig_a.names(), ["freeze", "unfreeze"]);
    let rig_b = rig(Script {
        splice: None,
        ..GOOD
    });
    assert_eq!(code(&rig_b.run(&proxy, passed)), Some(FailCode::Unknown));
    let least = 2 * (Duration::from_millis(30) + MARGIN);
    assert!((least..least + Duration::from_secs(5)).contains(&start.elapsed()));
}

#[test]
fn a_full_queue_is_busy() {
    let rig = rig_with(GOOD, true);
    let (_client, proxy, passed) = asked();
    assert_eq!(code(&rig.run(&proxy, passed)), Some(FailCode::Busy));
}

#[test]
fn what_is_no_connection_is_not_eligible() {
    let rig = rig(GOOD);
    assert_eq!(
        code(&rig.handovers.run(dest(), b"", None)),
        Some(FailCode::NotEligible)
    );
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let answer = rig.handovers.run(dest(), b"", Some(unix.into()));
    assert_eq!(code(&answer), Some(FailCode::NotEligible));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(udp.local_addr().unwrap()).unwrap();
    let answer = rig.handovers.run(dest(), b"", Some(udp.into()));
    assert_eq!(code(&answer), Some(FailCode::NotEligible));
}

#[test]
fn a_stopping_daemon_begins_nothing() {
    let rig = rig(GOOD);
    rig.handovers.stop(Duration::ZERO);
    let (_client, proxy, passed) = asked();
    assert_eq!(code(&rig.run(&proxy, passed)), Some(FailCode::Busy));
    assert!(rig.names().is_empty());
}

#[test]
fn the_papers_form_is_told_apart() {
    for (replay, told, word) in [
        (Some(block::Replay::Paper), Replay::Paper, "paper"),
        (None, Replay::Unknown, "unknown"),
    ] {
        let rig = rig(Script {
            splice: Some(Ok(replay)),
            ..GOOD
        });
        let (_client, proxy, passed) = asked();
        let Answer::Done(done) = rig.run(&proxy, passed) else {
            panic!("not done")
        };
        assert_eq!(done.replay, told);
        assert_eq!(rig.handovers.history.newest(1)[0].replay, Some(word));
    }
}
