//! Every call on real sockets over loopback; the silent close in a network
//! namespace of its own, which needs root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hostsock::{State, inq, outq, peek_all, peer_cred, silent_close, tcp_info};
use nix::sys::socket as ns;

/// What a server listens on and what its client connects to. The last one is an
/// IPv6 socket with an IPv4 connection.
const FAMILIES: [(&str, &str); 3] = [
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("::", "127.0.0.1"),
];

/// A connection over loopback: the client's end and the server's.
fn pair() -> (TcpStream, TcpStream) {
    pair_of(FAMILIES[0])
}

fn pair_of((listen, connect): (&str, &str)) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((listen, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((connect, port)).unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Waits until `done` holds, at most 10 s.
fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn info_of_a_server_that_never_wrote() {
    FAMILIES.into_iter().for_each(info_of);
}

fn info_of(family: (&str, &str)) {
    let (mut client, server) = pair_of(family);
    let fresh = tcp_info(&server).unwrap();
    assert_eq!(fresh.state, State::Established);
    assert_eq!((fresh.bytes_received, fresh.bytes_acked), (0, 0));
    assert_eq!((fresh.unacked, fresh.notsent_bytes), (0, 0));
    assert!(fresh.snd_mss > 0 && fresh.rcv_mss > 0);
    let wscale = fresh.snd_wscale != 0 || fresh.rcv_wscale != 0;
    assert!(!wscale || fresh.options.wscale);
    // Both ends must agree on what the other one scales by.
    let other = tcp_info(&client).unwrap();
    assert_eq!(other.snd_wscale, fresh.rcv_wscale);
    assert_eq!(other.rcv_wscale, fresh.snd_wscale);
    assert_eq!(other.options.timestamps, fresh.options.timestamps);
    assert_eq!(other.bytes_acked, 1, "the connecting side's SYN counts");

    client.write_all(&[7; 1000]).unwrap();
    wait("1000 bytes", || {
        tcp_info(&server).unwrap().bytes_received == 1000
    });
    assert_eq!(tcp_info(&server).unwrap().bytes_acked, 0);
    wait("its acknowledgement", || {
        tcp_info(&client).unwrap().bytes_acked == 1001
    });

    client.shutdown(Shutdown::Write).unwrap();
    wait("the FIN", || {
        tcp_info(&server).unwrap().state == State::CloseWait
    });
    let after = tcp_info(&server).unwrap();
    assert_eq!(after.bytes_received, 1001, "the FIN counts as one");
    assert_eq!(after.bytes_acked, 0);
}

#[test]
fn info_of_other_descriptors_is_an_error() {
    let (unix, _other) = UnixStream::pair().unwrap();
    assert!(tcp_info(&unix).is_err());
    assert!(tcp_info(File::open("/dev/null").unwrap()).is_err());
}

#[test]
fn peek_sees_every_segment_and_the_end() {
    FAMILIES.into_iter().for_each(peeked);
}

fn peeked(family: (&str, &str)) {
    let (mut client, mut server) = pair_of(family);
    let empty = peek_all(&server, 100).unwrap();
    assert_eq!((empty.bytes.len(), empty.eof), (0, false));

    // One write and one acknowledged arrival at a time, so that the receive
    // queue consists of many buffers.
    let mut sent = Vec::new();
    for round in 0..20u8 {
        let piece = vec![round; 3000];
        client.write_all(&piece).unwrap();
        sent.extend_from_slice(&piece);
        wait("the piece", || inq(&server).unwrap() == sent.len());
    }
    let all = peek_all(&server, 1 << 20).unwrap();
    assert!(all.bytes == sent && !all.eof);
    let some = peek_all(&server, 4001).unwrap();
    assert!(some.bytes == sent[..4001] && !some.eof);

    client.shutdown(Shutdown::Write).unwrap();
    wait("the FIN", || {
        tcp_info(&server).unwrap().state == State::CloseWait
    });
    assert_eq!(
        inq(&server).unwrap(),
        sent.len(),
        "SIOCINQ leaves the FIN out"
    );
    let all = peek_all(&server, sent.len()).unwrap();
    assert!(all.bytes == sent && all.eof);
    let short = peek_all(&server, sent.len() - 1).unwrap();
    assert!(short.bytes == sent[..sent.len() - 1] && !short.eof);
    let none = peek_all(&server, 0).unwrap();
    assert!(none.bytes.is_empty() && !none.eof);

    // Nothing was consumed.
    let mut read = Vec::new();
    server.read_to_end(&mut read).unwrap();
    assert!(read == sent);
    let end = peek_all(&server, 10).unwrap();
    assert!(end.bytes.is_empty() && end.eof);
}

#[test]
fn peek_reports_a_reset() {
    let (client, server) = pair();
    let mut reader = client.try_clone().unwrap();
    (&server).write_all(b"unread").unwrap();
    wait("the bytes", || inq(&reader).unwrap() == 6);
    reader.read_exact(&mut [0; 1]).unwrap();
    drop((client, reader)); // Unread data: the kernel resets.
    wait("the reset", || {
        tcp_info(&server).unwrap().state == State::Close
    });
    let error = peek_all(&server, 10).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn outq_counts_what_is_not_acknowledged() {
    let (client, _server) = pair();
    assert_eq!(outq(&client).unwrap(), 0);
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    // The peer does not read: its window fills, then our buffer.
    let error = loop {
        match (&client).write(&[1; 65536]) {
            Ok(n) => written += n,
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let waiting = outq(&client).unwrap();
    assert!(waiting > 0 && waiting <= written, "{waiting} of {written}");
    assert!(tcp_info(&client).unwrap().notsent_bytes > 0);
}

#[test]
fn credentials_of_a_unix_peer() {
    let (one, _two) = UnixStream::pair().unwrap();
    let cred = peer_cred(&one).unwrap();
    assert_eq!(cred.pid as u32, std::process::id());
    assert_eq!(cred.uid, nix::unistd::geteuid().as_raw());
    let (tcp, _other) = pair();
    assert!(peer_cred(&tcp).is_err());
}

/// Puts the calling thread into a network namespace of its own with loopback up.
fn own_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|e| panic!("this test needs root (CAP_SYS_ADMIN): unshare: {e}"));
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(status.expect("iproute2 is installed").success());
}

/// A socket that sees every frame of the namespace, both ways.
fn capture() -> OwnedFd {
    ns::socket(
        ns::AddressFamily::Packet,
        ns::SockType::Raw,
        ns::SockFlag::SOCK_NONBLOCK,
        ns::SockProtocol::EthAll,
    )
    .expect("a packet socket")
}

/// Frames that the capture has seen since it was asked last.
fn frames(capture: &OwnedFd) -> usize {
    let mut buffer = [0; 4096];
    let mut count = 0;
    while ns::recv(capture.as_raw_fd(), &mut buffer, ns::MsgFlags::empty()).is_ok() {
        count += 1;
    }
    count
}

/// Connections on `port` that the namespace knows, whatever their state.
fn connections(port: u16) -> usize {
    let table = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let port = format!(":{port:04X}");
    // The heading of each table names no port.
    [table("tcp"), table("tcp6")]
        .concat()
        .lines()
        .filter(|l| {
            l.split_whitespace()
                .skip(1)
                .take(2)
                .any(|a| a.ends_with(&port))
        })
        .count()
}

/// Connects, optionally leaves unread and unsent data, ends the server's end by
/// `close` and returns how many frames that sent and what remained.
fn close_in_namespace(
    family: (&'static str, &'static str),
    data: bool,
    close: fn(TcpStream, TcpStream),
) -> (usize, usize) {
    thread::spawn(move || {
        own_namespace();
        let (mut client, server) = pair_of(family);
        let port = server.local_addr().unwrap().port();
        if data {
            client.write_all(&[1; 5000]).unwrap();
            wait("the request", || inq(&server).unwrap() == 5000);
            wait("its acknowledgement", || outq(&client).unwrap() == 0);
        }
        let capture = capture();
        // The descriptor that another process would hold.
        let duplicate = server.try_clone().unwrap();
        thread::sleep(Duration::from_millis(100));
        frames(&capture);
        close(server, duplicate);
        thread::sleep(Duration::from_millis(400));
        let sent = frames(&capture);
        // Only the client's own entry may remain.
        let left = connections(port);
        drop(client);
        (sent, left)
    })
    .join()
    .unwrap()
}

/// The silent close, seen by another holder of the socket.
fn close_silently(server: TcpStream, mut duplicate: TcpStream) {
    assert_eq!(tcp_info(&duplicate).unwrap().state, State::Established);
    silent_close(server.as_fd()).expect("TCP_REPAIR needs CAP_NET_ADMIN");
    assert_eq!(tcp_info(&duplicate).unwrap().state, State::Close);
    let error = duplicate.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let error = duplicate.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[test]
fn silent_close_sends_nothing_and_frees_the_pair() {
    for family in FAMILIES {
        for data in [false, true] {
            let (sent, left) = close_in_namespace(family, data, close_silently);
            assert_eq!(sent, 0, "frames on the wire, {family:?}, data {data}");
            assert_eq!(left, 1, "only the client's end, {family:?}, data {data}");
        }
    }
}

#[test]
fn the_capture_would_see_an_ordinary_close() {
    for family in FAMILIES {
        let close = |server, duplicate| drop((server, duplicate));
        let (sent, _) = close_in_namespace(family, true, close);
        assert!(sent > 0, "{family:?}");
    }
}

#[test]
fn silent_close_refuses_a_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        silent_close(&listener).unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
    assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok());
}
