//! A daemon over capture files: what goes in, what comes out, what is counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::lab::bin_dir;

/// The daemon's ports in the order in which a worker polls them.
pub const PORTS: [&str; 4] = ["wire", "wire-host", "link", "link-host"];

/// Frames by port, in the order of [`PORTS`].
pub type Frames = [Vec<Vec<u8>>; 4];

/// What a daemon made of its captures.
pub struct Outcome {
    /// What left by each port.
    pub sent: Frames,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
    /// The last scrape.
    pub metrics: String,
    /// Its log.
    pub log: String,
}

/// A capture file of Ethernet frames, little-endian, without times.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).expect("a capture file");
}

/// The frames of a capture file that a process of this machine wrote.
pub fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("a capture file");
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().expect("4 bytes"));
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let (captured, len) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, len, "a frame was cut");
        at += 16;
        frames.push(file[at..at + len].to_vec());
        at += len;
    }
    frames
}

/// The samples of one metric whose value is not 0, by the value of one label.
pub fn samples(text: &str, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let key = format!("{label}=\"");
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(metric).and_then(|l| l.strip_prefix('{')) else {
            continue;
        };
        let (labels, value) = rest.rsplit_once("} ").expect("a sample");
        let name = labels.split(',').find_map(|l| l.strip_prefix(key.as_str()));
        let name = name.expect("the label").trim_end_matches('"').to_owned();
        *all.entry(name).or_default() += value.parse::<u64>().expect("a number");
    }
    all.retain(|_, count| *count > 0);
    all
}

/// A running daemon; it is killed where a test ends early.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scrape(metrics: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(metrics).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.0 200").then_some(text)
}

/// Runs a daemon on captures of `frames` until it has received all of them, and
/// `settled` says of its counters that it is done. `configuration` is made of the
/// devices by port, the directory of its sockets and the address of its metrics.
///
/// # Panics
/// The daemon ends early, or is not done within 30 s.
pub fn replay(
    frames: &Frames,
    configuration: impl FnOnce([String; 4], &Path, SocketAddr) -> String,
    settled: impl Fn(&BTreeMap<String, u64>) -> bool,
) -> Outcome {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |port: &str, end: &str| dir.path().join(format!("{port}.{end}"));
    let mut received = BTreeMap::new();
    for (port, frames) in PORTS.iter().zip(frames) {
        write_pcap(&path(port, "in"), frames);
        received.insert(port.replace('-', "_"), frames.len() as u64);
    }
    received.retain(|_, n| *n > 0);
    let mut number = 0;
    let devices = PORTS.map(|port| {
        let (i, o) = (path(port, "in"), path(port, "out"));
        number += 1;
        let n = number - 1;
        format!(
            "net_pcap{n},rx_pcap={},tx_pcap={}",
            i.display(),
            o.display()
        )
    });
    // A loopback address of this process's own, and a port of each run's.
    static RUNS: AtomicU16 = AtomicU16::new(9465);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = RUNS.fetch_add(1, Ordering::Relaxed);
    let metrics = SocketAddr::from(([127, 64 | a, b, c], port));
    let config = dir.path().join("dtsd.yaml");
    fs::write(&config, configuration(devices, dir.path(), metrics)).expect("a file");
    let log = fs::File::create(dir.path().join("log")).expect("a file");
    let child = Command::new(bin_dir().join("dtsd"))
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("dtsd, built before the tests");
    let mut daemon = Daemon(child);
    let text_of_log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(30);
    let (drops, metrics) = loop {
        let text = scrape(metrics).unwrap_or_default();
        let found = samples(&text, "dts_port_rx_packets_total", "port");
        let drops = samples(&text, "dts_drops_total", "reason");
        if found == received && settled(&drops) {
            break (drops, text);
        }
        let ended = daemon.0.try_wait().expect("a child");
        assert_eq!(ended, None, "dtsd has ended:\n{}", text_of_log());
        assert!(
            Instant::now() < deadline,
            "received {found:?} of {received:?}, dropped {drops:?}:\n{}",
            text_of_log()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let pid = daemon.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.expect("kill").success());
    let status = daemon.0.wait().expect("a child");
    assert!(status.success(), "dtsd: {status}\n{}", text_of_log());
    Outcome {
        sent: PORTS.map(|port| read_pcap(&path(port, "out"))),
        drops,
        metrics,
        log: text_of_log(),
    }
}
