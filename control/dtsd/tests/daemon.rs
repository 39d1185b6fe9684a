//! dtsd as a process, on devices in memory: no NIC, no hugepage, no kernel twin.

use dts_proto::rpc::{Client, ClientError, FailCode, NodeState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    dir: tempfile::TempDir,
    metrics: u16,
}

impl Place {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            metrics: free.local_addr().unwrap().port(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration, each `(from, to)` of `changes` replaced in it.
    fn config(&self, changes: &[(&str, &str)]) -> PathBuf {
        // Both are held until both are known, so that they differ.
        let free = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [peers, reports] = free.each_ref().map(|s| s.local_addr().unwrap().port());
        drop(free);
        let (dir, metrics, uid) = (self.dir.path().display(), self.metrics, geteuid());
        let mut text = format!(
            r#"node: 1
cluster:
  name: test
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  members:
    - {{ id: 1, name: node1, link: 127.0.0.1 }}
    - {{ id: 2, name: node2, link: 127.0.0.2 }}
services:
  - {{ name: web, vip: 10.77.0.100, port: 80, proxy_port: 8001 }}
ports:
  wire:
    device: "net_ring0"
    host: {{ device: "net_ring1", addresses: [10.77.0.1/24] }}
  link:
    device: "net_ring2"
    host: {{ device: "net_ring3" }}
workers: {{ cores: [0], idle: backoff, idle_sleep_us: 1000 }}
memory: {{ hugepages: false, megabytes: 64, mbufs: 2048, flows: 1024, half_open: 256, tombstones: 256, hold_kib: 256 }}
peers: {{ port: {peers} }}
reports: {{ port: {reports} }}
control:
  rpc_socket: {dir}/rpc.sock
  rpc_allow: {{ uids: [{uid}] }}
  admin_socket: {dir}/admin.sock
  metrics: "127.0.0.1:{metrics}"
"#
        );
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let file = self.path("dtsd.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn dtsd(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtsd"));
    command
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Daemon(Option<Child>);

impl Daemon {
    fn start(place: &Place, config: &Path) -> Self {
        let mut daemon = Self(Some(dtsd(config).spawn().unwrap()));
        let start = Instant::now();
        while get(&place.path("admin.sock"), "/v1/status").is_none_or(|a| a.0 != 200) {
            let child = daemon.0.as_mut().unwrap();
            if child.try_wait().unwrap().is_some() || start.elapsed() > PATIENCE {
                panic!("{:?}", daemon.stop());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// Ends it by SIGTERM, or by force if that does nothing.
    fn stop(&mut self) -> Output {
        let mut child = self.0.take().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            let signal = if start.elapsed() > PATIENCE {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            };
            let _ = kill(pid, signal);
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.stop();
        }
    }
}

fn exchange(mut stream: impl Read + Write, target: &str) -> Option<(u16, String)> {
    write!(stream, "GET {target} HTTP/1.0\r\nhost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn get(socket: &Path, target: &str) -> Option<(u16, String)> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    exchange(stream, target)
}

fn json(place: &Place, target: &str) -> serde_json::Value {
    let (status, body) = get(&place.path("admin.sock"), target).unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn metrics(place: &Place) -> HashMap<String, f64> {
    let stream = TcpStream::connect(("127.0.0.1", place.metrics)).unwrap();
    let (status, body) = exchange(stream, "/metrics").unwrap();
    assert_eq!(status, 200);
    let lines = body.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|l| l.rsplit_once(' ').unwrap())
        .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
        .collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Broadcast ARP requests for an address that is nobody's here, as a capture.
fn capture(path: &Path, frames: usize) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&[
        2, 0, 0, 0, 0, 9, 10, 77, 0, 9, 0, 0, 0, 0, 0, 0, 10, 77, 0, 1,
    ]);
    frame.resize(60, 0);
    for n in 0..frames {
        for word in [n, 0, frame.len(), frame.len()] {
            bytes.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
        }
        bytes.extend_from_slice(&frame);
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_life() {
    let place = Place::new();
    let (rx, tx) = (place.path("in.pcap"), place.path("out.pcap"));
    capture(&rx, 5);
    let wire = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        rx.display(),
        tx.display()
    );
    let config = place.config(&[("net_ring0", &wire)]);
    let mut daemon = Daemon::start(&place, &config);

    let status = json(&place, "/v1/status");
    assert_eq!(status["ready"], true);
    assert_eq!(status["node"], 1);
    assert!(status["incarnation"].as_u64().unwrap() > 1_600_000_000_000_000);
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    let buckets = &status["services"][0]["buckets"];
    assert_eq!(
        buckets["1"].as_u64().unwrap() + buckets["2"].as_u64().unwrap(),
        4096
    );
    assert_eq!(status["members"][0]["state"], "alive");
    assert_eq!(status["members"][1]["state"], "unknown");
    assert_eq!(status["flows"]["served"], 0);
    assert_eq!(json(&place, "/v1/flows?limit=3"), serde_json::json!([]));
    assert_eq!(get(&place.path("admin.sock"), "/v2/none").unwrap().0, 404);
    assert_eq!(
        get(&place.path("admin.sock"), "/v1/flows?limit=x")
            .unwrap()
            .0,
        400
    );

    // What the capture holds is counted, frame and byte.
    let series = |m: &HashMap<String, f64>, name: &str, port: &str| {
        m.get(&format!("{name}{{port=\"{port}\",worker=\"0\"}}"))
            .copied()
    };
    until("5 frames are counted", || {
        let m = metrics(&place);
        series(&m, "dts_port_rx_packets_total", "wire") == Some(5.0)
            && series(&m, "dts_port_tx_packets_total", "wire_host") == Some(5.0)
    });
    let m = metrics(&place);
    assert_eq!(series(&m, "dts_port_rx_bytes_total", "wire"), Some(300.0));
    assert_eq!(m["dts_members{state=\"unknown\"}"], 1.0);
    assert_eq!(m["dts_members{state=\"alive\"}"], 1.0);

    // The RPC is there: this connection is not one of the data plane's.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (proxy, _) = listener.accept().unwrap();
    let mut rpc = Client::connect(place.path("rpc.sock")).unwrap();
    let dest = ([127, 0, 0, 2], 80).into();
    let error = rpc
        .handover(proxy.as_fd(), dest, b"", Duration::from_secs(10))
        .unwrap_err();
    let ClientError::Failed {
        code: FailCode::NotEligible,
        reason,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(reason, "the data plane has no such connection");
    let mut nodes = Vec::new();
    until("this node has said something of itself", || {
        nodes = rpc.nodes(Duration::from_secs(10)).unwrap();
        !nodes[0].services.is_empty()
    });
    let known: Vec<_> = nodes.iter().map(|n| (n.id, n.state, n.takes(80))).collect();
    let dead = (2, NodeState::Dead, false);
    assert_eq!(known, [(1, NodeState::Active, true), dead]);
    assert_eq!(
        (nodes[0].services[0].port, nodes[0].services[0].connections),
        (80, 0)
    );
    let record = &json(&place, "/v1/handovers")[0];
    assert_eq!(record["outcome"], "not_eligible");
    assert_eq!(record["destination"], 2);
    assert!(record["replay"].is_null() && record["duration_us"].is_u64());
    let m = metrics(&place);
    assert_eq!(m["dts_handovers_total{result=\"not_eligible\"}"], 1.0);
    assert_eq!(m["dts_rpc_requests_total{result=\"failed\"}"], 1.0);

    // A second daemon does not start, and does not disturb the first.
    let second = dtsd(&config).output().unwrap();
    refused(
        &second,
        &config,
        "control.rpc_socket: ",
        "a daemon is running there",
    );
    assert_eq!(json(&place, "/v1/status")["node"], 1);

    let out = daemon.stop();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(out.stderr.is_empty(), "{out:?}");
    assert!(!place.path("rpc.sock").exists() && !place.path("admin.sock").exists());
}

#[test]
fn a_killed_daemon_is_no_obstacle_and_a_restart_has_a_higher_incarnation() {
    let place = Place::new();
    let config = place.config(&[]);
    let mut daemon = Daemon::start(&place, &config);
    let before = json(&place, "/v1/status")["incarnation"].as_u64().unwrap();
    let mut child = daemon.0.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.path("rpc.sock").exists() && place.path("admin.sock").exists());
    let mut daemon = Daemon::start(&place, &config);
    assert!(json(&place, "/v1/status")["incarnation"].as_u64().unwrap() > before);
    assert_eq!(daemon.stop().status.code(), Some(0));
}

#[track_caller]
fn refused(out: &Output, config: &Path, key: &str, reason: &str) {
    let text = std::str::from_utf8(&out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert_eq!(text.lines().count(), 1, "{text}");
    let rest = text
        .strip_prefix(&format!("{}:", config.display()))
        .expect(text);
    let (line, rest) = rest.split_once(": ").expect(text);
    assert!(line.parse::<u32>().is_ok_and(|n| n > 0), "{text}");
    assert!(rest.starts_with(key) && rest.contains(reason), "{text}");
}

#[test]
fn mistakes_end_in_one_line_and_exit_code_2() {
    let cases = [
        (
            "port: 80,",
            "port: 80, prot: 1,",
            "services.0.prot",
            "unknown",
        ),
        (
            "node: 1",
            "node: 7",
            "node: ",
            "7 is not the id of a member",
        ),
        (
            "net_ring0",
            "net_af_packet0,iface=dts-none",
            "ports.wire.device",
            "",
        ),
        (
            "\"net_ring3\"",
            "\"net_tap0,iface=lo\"",
            "ports.link.host.device",
            "",
        ),
        (
            "rpc.sock",
            "none/none/rpc.sock",
            "control.rpc_socket",
            "No such file or directory",
        ),
        ("127.0.0.1:", "192.0.2.1:", "control.metrics", "192.0.2.1"),
    ];
    for (from, to, key, reason) in cases {
        let place = Place::new();
        let config = place.config(&[(from, to)]);
        let out = dtsd(&config).output().unwrap();
        refused(&out, &config, key, reason);
        for left in ["rpc.sock", "admin.sock"] {
            assert!(!place.path(left).exists(), "{to}: {left} is left");
        }
    }
}

#[test]
fn checking_starts_nothing() {
    let place = Place::new();
    let config = place.config(&[]);
    let out = dtsd(&config).arg("--check").output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(out.stdout, format!("{}: ok\n", config.display()).as_bytes());
    let config = place.config(&[("node: 1\n", "node: one\n")]);
    let out = dtsd(&config).arg("--check").output().unwrap();
    refused(&out, &config, "node: ", "");
    assert!(!place.path("rpc.sock").exists());
}
