//! The RPC over real sockets, both sides in one process.

use dts_proto::rpc::{
    Answer, Client, ClientError, CodecError, Connection, Done, FailCode, MAX_MESSAGE, MAX_REQUEST,
    Node, NodeState, RecvError, Replay, Request, Server,
};
use rustix::fs::fstat;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType, connect, sendmsg, socket,
};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);
const DONE: Done = Done {
    node: 2,
    replay: Replay::FastOpen,
    micros: 412,
};

fn dest() -> SocketAddr {
    "10.77.1.2:80".parse().unwrap()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    (dir, path)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// A bare connection, for what [`Client`] would never send.
fn raw(path: &Path) -> OwnedFd {
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    fd
}

fn raw_send(fd: &OwnedFd, bytes: &[u8], passed: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(passed)));
    }
    sendmsg(
        fd,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

/// Serves one connection: `serve` makes the answer of each request.
fn serve(
    server: Server,
    mut serve: impl FnMut(Request, Option<OwnedFd>) -> Answer + Send + 'static,
) -> thread::JoinHandle<Server> {
    thread::spawn(move || {
        let mut connection = server.accept().unwrap();
        while let Ok((request, fd)) = connection.recv() {
            connection.send(&serve(request, fd)).unwrap();
        }
        server
    })
}

#[test]
fn request_descriptor_and_answer_arrive() {
    let (_dir, path) = place();
    let (mut near, far) = tcp_pair();
    let inode = fstat(&far).unwrap().st_ino;
    let body: Vec<u8> = (0..MAX_REQUEST).map(|i| i as u8).collect();
    let expected = body.clone();
    let server = serve(Server::bind(&path, 0o600).unwrap(), move |request, fd| {
        let Request::Handover {
            dest: asked,
            request,
            ..
        } = request
        else {
            panic!("another question");
        };
        assert_eq!(asked, dest());
        assert_eq!(request, expected);
        assert_eq!(fstat(fd.unwrap()).unwrap().st_ino, inode);
        Answer::Done(DONE)
    });
    let mut client = Client::connect(&path).unwrap();
    for _ in 0..3 {
        let done = client
            .handover(far.as_fd(), dest(), &body, TIMEOUT)
            .unwrap();
        assert_eq!(done, DONE);
    }
    drop(client);
    drop(server.join().unwrap());
    // The daemon kept no copy: the last close here is the last close.
    drop(far);
    assert_eq!(near.read(&mut [0; 1]).unwrap(), 0);
    assert!(!path.exists(), "the server removes its file");
}

#[test]
fn nodes_are_told_without_a_descriptor_and_answers_must_fit() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let node = Node {
        id: 2,
        link: [10, 77, 1, 2].into(),
        state: NodeState::Active,
        services: vec![],
    };
    let nodes = vec![node; 1000];
    // The third question of each connection gets the other one's answer, and whoever says
    // so is not asked again.
    let serve_mixed = |server: Server| {
        let (told, mut asked) = (nodes.clone(), 0);
        serve(server, move |request, fd| {
            asked += 1;
            let about_nodes = request == Request::Nodes;
            assert_eq!(fd.is_none(), about_nodes);
            match about_nodes == (asked < 3) {
                true => Answer::Nodes(told.clone()),
                false => Answer::Done(DONE),
            }
        })
    };
    let mut client = Client::new(&path);
    let handover = |client: &mut Client| client.handover(far.as_fd(), dest(), b"x", TIMEOUT);
    let server = serve_mixed(Server::bind(&path, 0o600).unwrap());
    assert_eq!(client.nodes(TIMEOUT).unwrap(), nodes);
    assert_eq!(client.nodes(TIMEOUT).unwrap(), nodes);
    assert!(matches!(client.nodes(TIMEOUT), Err(ClientError::Lost(_))));
    let server = serve_mixed(server.join().unwrap());
    assert_eq!(handover(&mut client).unwrap(), DONE);
    assert_eq!(client.nodes(TIMEOUT).unwrap(), nodes);
    assert!(matches!(handover(&mut client), Err(ClientError::Lost(_))));
    drop(server.join().unwrap());
}

#[test]
fn every_failure_code_reaches_the_client() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let mut codes = FailCode::ALL.into_iter();
    let _server = serve(Server::bind(&path, 0o600).unwrap(), move |_, _| {
        Answer::Failed {
            code: codes.next().unwrap(),
            reason: "because".into(),
        }
    });
    let mut client = Client::connect(&path).unwrap();
    for expected in FailCode::ALL {
        let error = client
            .handover(far.as_fd(), dest(), b"x", TIMEOUT)
            .unwrap_err();
        assert_eq!(error.code(), Some(expected));
        assert_eq!(error.to_string(), format!("handover {expected}: because"));
    }
}

#[test]
fn peer_and_mode() {
    let (_dir, path) = place();
    let server = Server::bind(&path, 0o640).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let _client = Client::connect(&path).unwrap();
    let peer = server.accept().unwrap().peer();
    assert_eq!(peer.pid, std::process::id() as i32);
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.gid, rustix::process::getegid().as_raw());
}

#[test]
fn garbage_is_an_error_and_the_next_message_is_read() {
    let (_dir, path) = place();
    let server = Server::bind(&path, 0o600).unwrap();
    let fd = raw(&path);
    let mut connection = server.accept().unwrap();
    // What arrived in one message, as an error of that message.
    let (held, passed_end) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut refused = |bytes: &[u8], passed: usize| {
        raw_send(&fd, bytes, &vec![passed_end.as_fd(); passed]);
        let error = connection.recv().unwrap_err();
        assert!(error.is_message_error(), "{error:?}");
        error
    };
    assert!(matches!(
        refused(b"GET / HTTP/1.1\r\n\r\n", 1),
        RecvError::Malformed(CodecError::Version(b'G'))
    ));
    assert!(matches!(
        refused(&vec![1; MAX_MESSAGE + 1], 0),
        RecvError::Malformed(CodecError::Oversize { .. })
    ));
    // Twice the limit is cut by the kernel and must be seen all the same.
    raw_grow(&fd);
    assert!(matches!(
        refused(&vec![1; 2 * MAX_MESSAGE], 0),
        RecvError::Malformed(CodecError::Oversize { .. })
    ));
    let good = dts_proto::rpc::encode_request(dest(), 0, b"GET").unwrap();
    assert!(matches!(refused(&good, 2), RecvError::Descriptors));
    assert!(matches!(refused(&good, 8), RecvError::Descriptors));
    // End of file shows that no copy of a passed descriptor is left open.
    drop(passed_end);
    assert_eq!((&held).read(&mut [0; 1]).unwrap(), 0);
    raw_send(&fd, &good, &[]);
    assert!(connection.recv().unwrap().1.is_none());
    drop(fd);
    assert!(matches!(connection.recv(), Err(RecvError::Closed)));
}

fn raw_grow(fd: &OwnedFd) {
    rustix::net::sockopt::set_socket_send_buffer_size(fd, 8 * MAX_MESSAGE).unwrap();
}

#[test]
fn nonblocking_reports_would_block() {
    let (_dir, path) = place();
    let server = Server::bind(&path, 0o600).unwrap();
    server.set_nonblocking(true).unwrap();
    let error = server.accept().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let _client = Client::connect(&path).unwrap();
    let mut connection: Connection = server.accept().unwrap();
    connection.set_nonblocking(true).unwrap();
    assert!(matches!(connection.recv(), Err(RecvError::WouldBlock)));
}

#[test]
fn a_daemon_that_dies_without_reading_is_unavailable() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let server = Server::bind(&path, 0o600).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let asking = thread::spawn(move || client.handover(far.as_fd(), dest(), b"x", TIMEOUT));
    let connection = server.accept().unwrap();
    // Wait for the request to arrive, and leave it unread.
    let mut fds = [rustix::event::PollFd::new(
        &connection,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, None).unwrap();
    drop(server);
    drop(connection);
    let error = asking.join().unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[test]
fn a_daemon_that_dies_after_reading_is_unknown() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let server = Server::bind(&path, 0o600).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let asking = thread::spawn(move || client.handover(far.as_fd(), dest(), b"x", TIMEOUT));
    let mut connection = server.accept().unwrap();
    connection.recv().unwrap();
    drop(connection);
    let error = asking.join().unwrap().unwrap_err();
    assert_eq!(error.code(), Some(FailCode::Unknown), "{error}");
}

#[test]
fn a_restarted_daemon_is_asked_again() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let first = Server::bind(&path, 0o600).unwrap();
    let mut client = Client::connect(&path).unwrap();
    drop(first.accept().unwrap());
    drop(first);
    let _second = serve(Server::bind(&path, 0o600).unwrap(), |_, _| {
        Answer::Done(DONE)
    });
    let done = client.handover(far.as_fd(), dest(), b"x", TIMEOUT);
    assert_eq!(done.unwrap(), DONE);
}

#[test]
fn silence_is_unknown_and_a_late_answer_is_never_taken_for_the_next() {
    let (_dir, path) = place();
    let (_near, far) = tcp_pair();
    let server = Server::bind(&path, 0o600).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let mut slow = server.accept().unwrap();
    let error = client
        .handover(far.as_fd(), dest(), b"x", Duration::from_millis(30))
        .unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
    slow.recv().unwrap();
    let late = Answer::Failed {
        code: FailCode::Refused,
        reason: String::new(),
    };
    assert_eq!(
        slow.send(&late).unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
    let _server = serve(server, |_, _| Answer::Done(DONE));
    let done = client.handover(far.as_fd(), dest(), b"x", TIMEOUT);
    assert_eq!(done.unwrap(), DONE);
}

#[test]
fn binding() {
    let (dir, path) = place();
    let first = Server::bind(&path, 0o600).unwrap();
    let error = Server::bind(&path, 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

    // A file without a listener, as a killed daemon leaves it, is replaced; the
    // late owner of the old one does not remove the new one.
    let stale = dir.path().join("stale.sock");
    std::os::unix::net::UnixListener::bind(&stale).unwrap();
    let second = Server::bind(&stale, 0o600).unwrap();
    std::fs::rename(&stale, &path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);

    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let error = Server::bind(&file, 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");

    let missing = Client::connect(dir.path().join("none")).unwrap_err();
    assert!(matches!(missing, ClientError::Unavailable { .. }));
    assert_eq!(missing.code(), None);
}
