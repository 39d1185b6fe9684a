//! Bad input, against the real programs: whatever is wrong with a configuration
//! or with the machine ends in one line and exit code 2 with nothing left behind,
//! and whatever arrives on its sockets leaves a daemon serving.
//!
//! The devices are rings in memory; what needs interfaces has a network namespace
//! of its own. Run as root.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dts_proto::rpc::{Answer, FailCode, MAX_MESSAGE, decode_answer, encode_request};
use dts_tests::lab::bin_dir;
use dts_tests::metrics::Metrics;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Somebody without any privilege.
const NOBODY: u32 = 65534;

/// A configuration that works; line numbers below are this text's. The link
/// addresses are of documentation (RFC 5737): no machine has them.
const BASE: &str = r#"node: 1
cluster:
  name: startup
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  members:
    - { id: 1, name: node1, link: 192.0.2.1, weight: 100 }
    - { id: 2, name: node2, link: 192.0.2.2, weight: 100 }
services:
  - { name: web, vip: 10.77.0.100, port: 80, proxy_port: 8001 }
  - { name: mail, vip: 10.77.0.100, port: 25 }
ports:
  wire:
    device: net_ring0
    host: { device: net_ring1 }
  link:
    device: net_ring2
    host: { device: net_ring3 }
workers: { cores: [0] }
memory: { hugepages: false, megabytes: 64, mbufs: 1024, flows: 256, half_open: 64, tombstones: 64 }
control:
  rpc_socket: DIR/rpc.sock
  admin_socket: DIR/admin.sock
  metrics: "METRICS"
"#;

/// A folder with a configuration, and an address for its metrics that no test
/// beside this one has.
struct Site {
    dir: TempDir,
    metrics: SocketAddr,
}

impl Site {
    fn new() -> Self {
        static PORT: AtomicU16 = AtomicU16::new(9464);
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let metrics = SocketAddr::from(([127, 64 | a, b, c], port));
        Site { dir, metrics }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the base with these replacements, each of which must apply.
    fn configure(&self, changes: &[(&str, &str)]) -> PathBuf {
        let mut text = BASE.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from:?} is not in the base");
            text = text.replacen(from, to, 1);
        }
        let dir = self.dir.path().display().to_string();
        let text = text.replace("DIR", &dir);
        let file = self.path("dtsd.yaml");
        fs::write(&file, text.replace("METRICS", &self.metrics.to_string())).unwrap();
        file
    }

    /// The folder's files.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn rpc(&self) -> PathBuf {
        self.path("rpc.sock")
    }

    fn admin(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// A daemon that serves.
    fn serve(&self, changes: &[(&str, &str)]) -> Daemon {
        let file = self.configure(changes);
        let mut daemon = Daemon::spawn(dtsd(&file), self);
        daemon.await_ready();
        daemon
    }
}

fn dtsd(config: &Path) -> Command {
    let mut command = Command::new(bin_dir().join("dtsd"));
    command.arg("--config").arg(config);
    command
}

/// A process group with a daemon, killed where a test ends early.
struct Daemon {
    child: Child,
    admin: PathBuf,
    metrics: SocketAddr,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn spawn(mut command: Command, site: &Site) -> Self {
        let logs = tempfile::env::temp_dir().join(format!("dts-startup-{}", site.metrics.port()));
        let log = logs.with_extension(std::process::id().to_string());
        let file = fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("dtsd, built before the tests");
        let (admin, metrics) = (site.admin(), site.metrics);
        Daemon { child, admin, metrics, log }
    }
}
