//! The Rust function against a daemon that only speaks the RPC. One test: the
//! environment belongs to the whole process.

use dts::{Done, FailCode, Replay, request_handover};
use dts_proto::rpc::{Answer, Server};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

const CHILD: &str = "DTS_TEST_CHILD";

/// Runs in a process of its own, whose environment names the socket.
fn child() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let dest = "10.77.1.2:80".parse().unwrap();
    let errnos = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ETIMEDOUT,
        libc::ECONNABORTED,
        libc::EOPNOTSUPP,
        libc::EBUSY,
        libc::EACCES,
        libc::EPROTO,
    ];
    for (code, errno) in FailCode::ALL.into_iter().zip(errnos) {
        let error = request_handover(&socket, dest, b"x").unwrap_err();
        assert_eq!((error.code(), error.errno()), (Some(code), errno));
    }
    // Every thread has its own connection.
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket.try_clone().unwrap();
            thread::spawn(move || request_handover(&socket, dest, b"y").unwrap())
        })
        .collect();
    for worker in workers {
        assert_eq!(worker.join().unwrap().node, 7);
    }
}

#[test]
fn outcomes_and_threads() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    let server = Server::bind(&path, 0o600).unwrap();
    let daemon = thread::spawn(move || {
        let mut first = server.accept().unwrap();
        for code in FailCode::ALL {
            first.recv().unwrap();
            let reason = String::new();
            first.send(&Answer::Failed { code, reason }).unwrap();
        }
        let mut others: Vec<_> = (0..4).map(|_| server.accept().unwrap()).collect();
        for connection in &mut others {
            connection.recv().unwrap();
            let done = Done {
                node: 7,
                replay: Replay::Handshake,
                micros: 1,
            };
            connection.send(&Answer::Done(done)).unwrap();
        }
    });
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "outcomes_and_threads"])
        .env(CHILD, "1")
        .env(dts::SOCKET_VARIABLE, &path)
        .status()
        .unwrap();
    assert!(status.success());
    daemon.join().unwrap();
}
