//! What unit tests share.

use dts_config::Config;
use std::net::{TcpListener, TcpStream};

/// A valid configuration of node 1 of 2.
pub(crate) fn config() -> Config {
    config_with(&[])
}

/// The same with IPv6 on wire and link.
pub(crate) fn config_v6() -> Config {
    config_with(&[
        ("link: 127.0.0.1", "link: \"::1\""),
        ("link: 127.0.0.2", "link: \"fd77::2\""),
        ("vip: 10.77.0.100", "vip: \"fd77::100\""),
        ("10.77.0.1/24", "\"fd77::1/64\""),
    ])
}

fn config_with(changes: &[(&str, &str)]) -> Config {
    let mut text = r#"
node: 1
cluster:
  name: test
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  members:
    - { id: 1, name: node1, link: 127.0.0.1 }
    - { id: 2, name: node2, link: 127.0.0.2 }
services:
  - { name: web, vip: 10.77.0.100, port: 80, proxy_port: 8001 }
ports:
  wire: { device: "net_ring0", host: { device: "net_ring1", addresses: [10.77.0.1/24] } }
  link: { device: "net_ring2", host: { device: "net_ring3" } }
workers: { cores: [0] }
"#
    .to_owned();
    for (from, to) in changes {
        assert!(text.contains(from));
        text = text.replace(from, to);
    }
    dts_config::parse(&text, "test.yaml").expect("the test's own configuration is valid")
}

/// A client's socket and the accepted one.
pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    tcp_pair_of("127.0.0.1", "127.0.0.1")
}

/// The same, by what the server listens on and the client connects to.
pub(crate) fn tcp_pair_of(listen: &str, connect: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((listen, 0)).expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let client = TcpStream::connect((connect, port)).expect("backlog");
    let (server, _) = listener.accept().expect("a client waits");
    (client, server)
}

/// Waits for what another thread or the kernel is about to do.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed().as_secs() < 10, "it does not happen");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Waits until `bytes` are in the receive queue.
pub(crate) fn settled(socket: &TcpStream, bytes: usize) {
    until(|| hostsock::inq(socket).is_ok_and(|n| n >= bytes));
}
