//! A proxy with a daemon that only speaks the RPC.

use dts_proto::rpc::{
    Answer, Connection, Done, FailCode, Node, NodeState, Replay, Request, Server, ServiceState,
};
use dts_proxy::config::{Config, parse};
use dts_proxy::serve::{Counters, listen, serve};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub const CONFIG: &str = "\
listen: 127.0.0.1:1
limits: { head_bytes: 512, head_timeout_ms: 20000 }
nodes: { interval_ms: 20, stale_ms: 60000 }
pools:
  - { name: a, members: [{ address: 10.77.1.1:80 }, { address: 10.77.1.2:80 }, { address: 10.77.1.3:80 }] }
  - { name: b, members: [{ address: 10.77.1.4:80 }] }
rules:
  - { path_prefix: /b/, pool: b }
default_pool: a
";

pub const REQUEST: &[u8] = b"GET /a/1 HTTP/1.1\r\nHost: x\r\n\r\n";

pub fn done() -> Answer {
    Answer::Done(Done {
        node: 2,
        replay: Replay::FastOpen,
        micros: 1,
    })
}

pub fn failed(code: FailCode) -> Answer {
    Answer::Failed {
        code,
        reason: "test".into(),
    }
}

#[allow(dead_code, reason = "not every test file speaks of nodes")]
/// Node `n` of the configuration above, as its daemon tells of it.
pub fn node(n: u8, healthy: bool, connections: u32) -> Node {
    Node {
        id: n.into(),
        link: [10, 77, 1, n].into(),
        state: NodeState::Active,
        services: vec![ServiceState {
            port: 80,
            healthy,
            connections,
            age_ms: 0,
        }],
    }
}

/// What the daemon says of the nodes, and how often it was asked.
#[derive(Default)]
struct Directory {
    nodes: Mutex<Vec<Node>>,
    asked: AtomicU64,
}

/// A proxy, and the daemon that it asks.
pub struct Lab {
    directory: Arc<Directory>,
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    pub stop: watch::Sender<bool>,
    pub asked: Receiver<(SocketAddr, Vec<u8>)>,
    runtime: Option<tokio::runtime::Runtime>,
    serving: Option<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// Answers each request of one connection by `answer`; through the descriptor
/// of a connection that it calls moved, it says so to the client.
fn daemon(
    mut connection: Connection,
    tell: &Sender<(SocketAddr, Vec<u8>)>,
    answer: &(dyn Fn(SocketAddr, &[u8]) -> Option<Answer> + Sync),
    directory: &Directory,
) {
    while let Ok((request, fd)) = connection.recv() {
        let Request::Handover { dest, request, .. } = request else {
            let nodes = directory.nodes.lock().unwrap().clone();
            directory.asked.fetch_add(1, Ordering::SeqCst);
            if connection.send(&Answer::Nodes(nodes)).is_err() {
                return;
            }
            continue;
        };
        let mut client = TcpStream::from(fd.expect("a descriptor comes with each request"));
        // The proxy's sockets do not block, and this one is one of them.
        client.set_nonblocking(false).unwrap();
        let Some(answer) = answer(dest, &request) else {
            return;
        };
        if matches!(answer, Answer::Done(_)) {
            let _ = client.write_all(b"moved");
        }
        drop(client);
        let _ = tell.send((dest, request));
        if connection.send(&answer).is_err() {
            return;
        }
    }
}

impl Lab {
    pub fn new(
        config: &str,
        answer: impl Fn(SocketAddr, &[u8]) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::on("127.0.0.1:0", config, answer)
    }

    /// One that listens there.
    pub fn on(
        address: &str,
        config: &str,
        answer: impl Fn(SocketAddr, &[u8]) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Config = parse(config, "x").unwrap();
        config.rpc_socket = dir.path().join("rpc.sock");
        let server = Server::bind(&config.rpc_socket, 0o600).unwrap();
        let (tell, asked) = channel();
        let answer = Arc::new(answer);
        let directory = Arc::new(Directory::default());
        let told = Arc::clone(&directory);
        thread::spawn(move || {
            while let Ok(connection) = server.accept() {
                let (tell, answer) = (tell.clone(), Arc::clone(&answer));
                let told = Arc::clone(&told);
                thread::spawn(move || daemon(connection, &tell, &*answer, &told));
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _context = runtime.enter();
            listen(address.parse().unwrap()).unwrap()
        };
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let serving = runtime.spawn(serve(config, listener, Arc::clone(&counters), stopped));
        Self {
            directory,
            address,
            counters,
            stop,
            asked,
            runtime: Some(runtime),
            serving: Some(serving),
            _dir: dir,
        }
    }

    pub fn client(&self) -> TcpStream {
        self.client_at(self.address)
    }

    pub fn client_at(&self, address: SocketAddr) -> TcpStream {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    #[allow(dead_code, reason = "not every test file speaks of nodes")]
    /// Lets the daemon say this of the nodes, and waits until the proxy knows.
    pub fn tell(&self, nodes: Vec<Node>) {
        let asked = || self.directory.asked.load(Ordering::SeqCst);
        *self.directory.nodes.lock().unwrap() = nodes;
        // The next answer may be an old one under way; who asks after that one has taken
        // in the answer before.
        let (before, deadline) = (asked(), Instant::now() + PATIENCE);
        while asked() < before + 3 {
            assert!(Instant::now() < deadline, "the proxy does not ask");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn asked(&self) -> (SocketAddr, Vec<u8>) {
        self.asked.recv_timeout(PATIENCE).unwrap()
    }

    pub fn expect(&self, counter: fn(&Counters) -> &AtomicU64, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while counter(&self.counters).load(Ordering::Relaxed) != value {
            assert!(Instant::now() < deadline, "{:?}", self.counters);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until so many handovers are under way and so many connections wait.
    #[allow(dead_code, reason = "not every test file has a queue")]
    pub fn expect_at_the_gate(&self, under_way: u64, waiting: u64) {
        self.expect(|c| &c.under_way, under_way);
        self.expect(|c| &c.waiting, waiting);
    }

    /// Nothing more was asked; all connections are finished after this.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(self.serving.take().unwrap()).unwrap();
        runtime.shutdown_background();
        assert!(self.asked.try_recv().is_err());
    }
}

/// Everything until the end; a reset (unread data at close) is an end too.
pub fn rest(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match client.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8(bytes).unwrap()
}
