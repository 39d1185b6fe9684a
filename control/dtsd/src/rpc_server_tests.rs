//! The RPC server over a real socket.

use super::*;
use crate::handover::Limits;
use crate::metrics::Metrics;
use crate::plane::{Dispatcher, Plane};
use crate::testkit::{config, tcp_pair, until};
use arc_swap::ArcSwap;
use dts_core::command::Command;
use dts_proto::rpc::{Client, ClientError};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use nix::unistd::{getegid, geteuid};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A data plane whose queues are always full.
struct Full;

impl Plane for Full {
    fn workers(&self) -> usize {
        1
    }
    fn worker_of(&self, _: SocketAddr) -> usize {
        0
    }
    fn command(&self, _: usize, command: Command) -> Result<(), Command> {
        Err(command)
    }
}

struct Rig {
    dir: tempfile::TempDir,
    metrics: Metrics,
    _server: RpcServer,
}

fn rig(allow: RpcAllow) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let boot = crate::snapshot::Boot {
        incarnation: 1,
        steer_key: [0; 16],
    };
    let view = crate::snapshot::build(&config(), boot, [2; 6], [4; 6]);
    let limits = Limits {
        deadline: Duration::from_millis(30),
        first_window: 1000,
    };
    let handovers = Arc::new(Handovers::new(
        Arc::new(Full),
        Arc::new(Dispatcher::default()),
        Arc::new(ArcSwap::from_pointee(view)),
        limits,
        Arc::clone(&metrics.handovers),
    ));
    let server = RpcServer::bind(&dir.path().join("rpc.sock")).unwrap();
    let node = Node {
        id: 3,
        link: [10, 77, 1, 3].into(),
        state: dts_proto::rpc::NodeState::Standby,
        services: vec![],
    };
    let directory: Directory = Arc::new(move || vec![node.clone()]);
    let rpc = Arc::clone(&metrics.rpc);
    let server = RpcServer::start(server, allow, handovers, directory, rpc).unwrap();
    Rig {
        dir,
        metrics,
        _server: server,
    }
}

fn own() -> RpcAllow {
    RpcAllow {
        uids: vec![geteuid().as_raw()],
        gids: vec![],
    }
}

impl Rig {
    fn ask(&self) -> FailCode {
        let mut client = Client::connect(self.dir.path().join("rpc.sock")).unwrap();
        let (_client, proxy) = tcp_pair();
        let dest = ([127, 0, 0, 2], 80).into();
        match client.handover(proxy.as_fd(), dest, b"", Duration::from_secs(10)) {
            Err(ClientError::Failed { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    fn raw(&self) -> OwnedFd {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let address = UnixAddr::new(&self.dir.path().join("rpc.sock")).unwrap();
        connect(fd.as_raw_fd(), &address).unwrap();
        fd
    }

    fn count(&self, result: &'static str) -> u64 {
        self.metrics.rpc.get(result)
    }
}

#[test]
fn who_is_listed_may_ask() {
    let by_uid = rig(own());
    // The scripted data plane is full, so this is as far as anyone gets.
    assert_eq!(by_uid.ask(), FailCode::Busy);
    let by_gid = rig(RpcAllow {
        uids: vec![],
        gids: vec![getegid().as_raw()],
    });
    assert_eq!(by_gid.ask(), FailCode::Busy);
    until(|| by_uid.count("failed") == 1);
    assert_eq!(by_uid.count("denied"), 0);
}

#[test]
fn who_may_ask_is_told_of_the_nodes_too() {
    let rig = rig(own());
    let mut client = Client::new(rig.dir.path().join("rpc.sock"));
    for n in 1..=2 {
        let nodes = client.nodes(Duration::from_secs(10)).unwrap();
        assert_eq!((nodes.len(), nodes[0].id), (1, 3));
        until(|| rig.count("nodes") == n);
    }
    // Between the two kinds of questions on one connection.
    let (_client, proxy) = tcp_pair();
    let dest = ([127, 0, 0, 2], 80).into();
    let asked = client.handover(proxy.as_fd(), dest, b"", Duration::from_secs(10));
    assert_eq!(asked.unwrap_err().code(), Some(FailCode::Busy));
    let denied = self::rig(RpcAllow {
        uids: vec![geteuid().as_raw() + 1],
        gids: vec![],
    });
    let mut client = Client::new(denied.dir.path().join("rpc.sock"));
    let asked = client.nodes(Duration::from_secs(10));
    assert_eq!(asked.unwrap_err().code(), Some(FailCode::Denied));
}

#[test]
fn who_is_not_listed_is_denied() {
    let rig = rig(RpcAllow {
        uids: vec![geteuid().as_raw() + 1],
        gids: vec![getegid().as_raw() + 1],
    });
    for n in 1..=3 {
        assert_eq!(rig.ask(), FailCode::Denied);
        assert_eq!(rig.count("denied"), n);
    }
}

#[test]
fn credentials_are_compared_each_with_its_own_list() {
    let allow = RpcAllow {
        uids: vec![10],
        gids: vec![20],
    };
    let peer = |uid, gid| PeerCredentials { uid, gid, pid: 1 };
    assert!(allowed(&allow, peer(10, 1)));
    assert!(allowed(&allow, peer(1, 20)));
    assert!(!allowed(&allow, peer(20, 10)));
    assert!(!allowed(
        &RpcAllow {
            uids: vec![],
            gids: vec![]
        },
        peer(0, 0)
    ));
}

#[test]
fn garbage_is_answered_and_the_daemon_serves_on() {
    let rig = rig(own());
    let fd = rig.raw();
    let pieces: [&[u8]; 5] = [
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        &[1],
        &[1, 0, 0, 0, 0],
        &[0xff; 4000],
    ];
    for (n, piece) in pieces.iter().enumerate() {
        send(fd.as_raw_fd(), piece, MsgFlags::empty()).unwrap();
        let mut answer = [0; 4096];
        let len = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        let answer = dts_proto::rpc::decode_answer(&answer[..len]).unwrap();
        let malformed = matches!(
            answer,
            Answer::Failed {
                code: FailCode::Malformed,
                ..
            }
        );
        assert!(malformed, "{n}: {answer:?}");
        until(|| rig.count("malformed") == n as u64 + 1);
    }
    drop(fd);
    assert_eq!(rig.ask(), FailCode::Busy);
}

#[test]
fn a_client_that_goes_away_is_no_matter() {
    let rig = rig(own());
    for _ in 0..20 {
        let fd = rig.raw();
        send(fd.as_raw_fd(), b"garbage", MsgFlags::empty()).unwrap();
    }
    drop(rig.raw());
    assert_eq!(rig.ask(), FailCode::Busy);
}
