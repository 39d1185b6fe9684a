//! Bad input, against the real programs: whatever is wrong with a configuration
//! or with the machine ends in one line and exit code 2 with nothing left behind,
//! and whatever arrives on its sockets leaves a daemon serving.
//!
//! The devices are rings in memory; what needs interfaces has a network namespace
//! of its own. Run as root.

use std::fs;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use dts_proto::rpc::{Answer, FailCode, MAX_MESSAGE, decode_answer, encode_request};
use dts_tests::daemon::{PATIENCE, Process, dtsd, eventually, get, metrics_address};
use dts_tests::lab::bin_dir;
use dts_tests::metrics::Metrics;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv,
    sendmsg, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use tempfile::TempDir;

/// Where a daemon's output goes, in its site.
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
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
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let metrics = metrics_address();
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
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n != STDOUT && n != STDERR).collect();
        names.sort();
        names
    }

    fn rpc(&self) -> PathBuf {
        self.path("rpc.sock")
    }

    fn admin(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// Runs a daemon that must refuse to start; what it said.
    fn refusal(&self, command: Command) -> String {
        let before = self.files();
        let mut daemon = Daemon::spawn(command, self);
        let status = daemon.wait();
        let text = |name| fs::read_to_string(self.path(name)).unwrap();
        let (said, logged) = (text(STDERR), text(STDOUT));
        assert_eq!(status.code(), Some(2), "{status}\n{said}{logged}");
        assert_eq!(said.lines().count(), 1, "more than one message:\n{said}");
        assert!(said.ends_with('\n'), "{said:?}");
        assert_eq!(self.files(), before, "files are left: {said}");
        daemon.assert_gone();
        said.trim_end().to_owned()
    }

    /// A daemon that serves.
    fn serve(&self, changes: &[(&str, &str)]) -> Daemon {
        let file = self.configure(changes);
        let mut daemon = Daemon::spawn(dtsd(&file), self);
        daemon.await_ready();
        daemon
    }
}

/// A daemon in a process group of its own.
struct Daemon {
    process: Process,
    admin: PathBuf,
    metrics: SocketAddr,
}

impl Daemon {
    fn spawn(mut command: Command, site: &Site) -> Self {
        let file = |name| fs::File::create(site.path(name)).unwrap();
        let process = Process::spawn(command.process_group(0), file(STDOUT), file(STDERR));
        let (admin, metrics) = (site.admin(), site.metrics);
        Daemon {
            process,
            admin,
            metrics,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    fn terminate(&mut self) -> ExitStatus {
        self.process.terminate()
    }

    /// That the process, which has been waited for, left no other and no folder of
    /// the EAL's.
    fn assert_gone(&self) {
        assert_eq!(
            killpg(self.pid(), None),
            Err(Errno::ESRCH),
            "a process is left"
        );
        let eal = PathBuf::from(format!("/run/dpdk/dts{}", self.pid()));
        assert!(!eal.exists(), "{} is left", eal.display());
    }

    fn await_ready(&mut self) {
        let Daemon { process, admin, .. } = self;
        eventually("a daemon that serves", || {
            assert_eq!(process.ended(), None, "dtsd has ended");
            let (status, body) = get(UnixStream::connect(&admin).ok()?, "/v1/status")?;
            (status == 200 && body.contains(r#""ready":true"#)).then_some(())
        });
    }

    /// That it still answers on every socket, as the same process.
    fn assert_serves(&mut self, site: &Site) {
        assert_eq!(self.process.ended(), None, "dtsd has ended");
        for target in ["/v1/status", "/v1/flows?limit=5", "/v1/handovers"] {
            let (status, body) = get(UnixStream::connect(&self.admin).unwrap(), target).unwrap();
            assert_eq!(status, 200, "{target}: {body}");
        }
        let _ = self.metrics();
        // A flow that is none of ours is a sensible question.
        let code = ask(&rpc(site), &handover(), &[tcp_pair().0.as_raw_fd()]);
        assert_eq!(code, Some(FailCode::NotEligible));
    }

    fn metrics(&self) -> Metrics {
        let stream = TcpStream::connect(self.metrics).unwrap();
        let (status, text) = get(stream, "/metrics").unwrap();
        assert_eq!(status, 200);
        Metrics::parse(&text)
    }

    fn rpcs(&self, result: &str) -> f64 {
        let labels = [("result", result)];
        self.metrics().sum("dts_rpc_requests_total", &labels)
    }

    /// Open descriptors, once no RPC connection is served any more.
    fn descriptors(&self) -> usize {
        let proc = |what| fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap();
        eventually("the end of all RPC connections", || {
            // A thread may end while it is looked at.
            let names =
                proc("task").filter_map(|t| fs::read_to_string(t.ok()?.path().join("comm")).ok());
            (names.filter(|n| n.trim() == "dts-rpc-conn").count() == 0).then_some(())
        });
        proc("fd").count()
    }
}

// --- What must not start ---

/// Replacement, line, and words of the reason. What one key may be is tested with
/// `dts-config`; here is one mistake of each kind, and what only the machine knows.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str, u32, &[&str])] = &[
    // The text.
    ("node: 1\n", "node: 1\nnoed: 2\n", 2, &["noed: unknown key, did you mean node?"]),
    ("workers:", "node: 1\nworkers:", 19, &["duplicate"]),
    ("cores: [0]", "cores: [0", 19, &["not YAML"]),
    ("id: 1,", "id: one,", 7, &["cluster.members.0.id", "1 to 65535", "\"one\""]),
    ("vip: 10.77.0.100, port: 25", "vip: 10.77.0.300, port: 25", 11, &["services.1.vip", "10.77.0.300"]),
    // What one key says about another.
    ("weight: 100 }\n    - { id: 2, name: node2, link: 192.0.2.2, weight: 100", "weight: 0 }\n    - { id: 2, name: node2, link: 192.0.2.2, weight: 0", 6, &["cluster.members: every weight is 0"]),
    ("port: 25", "port: 80", 11, &["services.1.port: 10.77.0.100:80 is service web's already"]),
    ("port: 25", "port: 25, proxy_port: 8001", 11, &["services.1.proxy_port", "service web"]),
    ("device: net_ring2", "device: net_ring1", 17, &["ports.link.device: net_ring1 is the device of ports.wire.host.device"]),
    ("node: 1\n", "node: 3\n", 1, &["node: 3 is not the id of a member"]),
    // Devices.
    ("net_ring0", "\"net_af_packet0,iface=nonexistent\"", 14, &["ports.wire.device: net_af_packet0,iface=nonexistent: ", "No such device"]),
    ("net_ring1", "net_nosuch0", 15, &["ports.wire.host.device: net_nosuch0: "]),
    ("net_ring2", "\"0000:ff:1f.7\"", 17, &["ports.link.device: 0000:ff:1f.7: ", "No such device"]),
    ("net_ring3", "\"net_pcap0,rx_pcap=/nonexistent.pcap\"", 18, &["ports.link.host.device: ", "/nonexistent.pcap: No such file"]),
    ("net_ring1 }", "net_ring1, interface: nonexistent }", 15, &["ports.wire.host.interface: nonexistent: ", "No such device"]),
    // Memory and cores.
    ("hugepages: false, megabytes: 64", "hugepages: true, megabytes: 1048576", 20, &["memory.hugepages: 1048576 MiB of hugepages are needed", "vm.nr_hugepages"]),
    ("megabytes: 64, mbufs: 1024", "megabytes: 16, mbufs: 65536", 20, &["memory.mbufs: ", "memory.megabytes is 16"]),
    ("cores: [0]", "cores: [1023]", 19, &["workers.cores.0: core 1023 is not among those of this process"]),
    // Sockets.
    ("DIR/rpc.sock", "/nonexistent/folder/rpc.sock", 22, &["control.rpc_socket: /nonexistent/folder/rpc.sock: No such file"]),
    ("DIR/admin.sock", "DIR/dtsd.yaml", 23, &["control.admin_socket: ", "dtsd.yaml: "]),
    ("METRICS", "192.0.2.77:9464", 24, &["control.metrics: 192.0.2.77:9464: Cannot assign requested address"]),
];

/// That a message is `FILE:LINE: reason` with these words in the reason.
fn assert_message(said: &str, file: &Path, line: u32, words: &[&str]) {
    let start = format!("{}:{line}: ", file.display());
    let Some(reason) = said.strip_prefix(&start) else {
        panic!("{said}\ndoes not start with {start}");
    };
    for word in words {
        assert!(reason.contains(word), "{said}\nlacks {word:?}");
    }
}

#[test]
fn a_mistake_ends_in_one_message_and_nothing_else() {
    let site = Site::new();
    for (from, to, line, words) in MISTAKES {
        let file = site.configure(&[(from, to)]);
        let said = site.refusal(dtsd(&file));
        assert_message(&said, &file, *line, words);
    }
    let missing = site.path("missing.yaml");
    let said = site.refusal(dtsd(&missing));
    assert!(
        said.contains("missing.yaml: cannot read: No such file"),
        "{said}"
    );
    // The base itself works: every refusal above was for its own mistake.
    let mut daemon = site.serve(&[]);
    assert!(daemon.terminate().success());
}

/// dtsd as somebody without any privilege, who may execute it wherever it was
/// built.
fn unprivileged(site: &Site, config: &Path) -> Command {
    let program = site.path("dtsd");
    if !program.exists() {
        fs::copy(bin_dir().join("dtsd"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program);
    // std clears the supplementary groups of a root that becomes another user.
    command.arg("--config").arg(config).uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn a_missing_permission_is_named_at_the_key_that_needs_it() {
    let site = Site::new();
    let own = site.path("nobody");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let sockets = [
        ("DIR/rpc.sock", "DIR/nobody/rpc.sock"),
        ("DIR/admin.sock", "DIR/nobody/admin.sock"),
    ];
    #[rustfmt::skip]
    let cases: [(&str, &str, u32, &[&str]); 4] = [
        ("net_ring0", "\"net_af_packet0,iface=lo\"", 14, &["ports.wire.device: ", "CAP_NET_RAW"]),
        ("net_ring1", "\"net_tap0,iface=dtsst0\"", 15, &["ports.wire.host.device: ", "CAP_NET_ADMIN"]),
        ("net_ring3", "\"net_virtio_user0,path=/dev/vhost-net\"", 18, &["ports.link.host.device: ", "CAP_NET_ADMIN"]),
        ("net_ring3 }", "net_ring3, interface: lo }", 18, &["ports.link.host.interface: ", "Permission denied"]),
    ];
    for (from, to, line, words) in cases {
        let file = site.configure(&[sockets[0], sockets[1], (from, to)]);
        let said = site.refusal(unprivileged(&site, &file));
        assert_message(&said, &file, line, words);
        assert_eq!(
            fs::read_dir(&own).unwrap().count(),
            0,
            "a socket is left: {said}"
        );
    }
    // A folder that is not theirs; the socket bound before must go too.
    let file = site.configure(&[sockets[0]]);
    let said = site.refusal(unprivileged(&site, &file));
    assert_message(
        &said,
        &file,
        23,
        &["control.admin_socket: ", "Permission denied"],
    );
    assert_eq!(
        fs::read_dir(&own).unwrap().count(),
        0,
        "a socket is left: {said}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let said = site.refusal(unprivileged(&site, &file));
    assert!(
        said.contains("dtsd.yaml: cannot read: Permission denied"),
        "{said}"
    );
}

/// A network namespace of this test's own.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let namespace = Namespace(format!("dts-startup-{}-{name}", std::process::id()));
        run(Command::new("ip").args(["netns", "add", &namespace.0]));
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    fn ip(&self, arguments: &[&str]) -> String {
        run(Command::new("ip").args(["-n", &self.0]).args(arguments))
    }

    /// What the kernel of the namespace has been told.
    fn state(&self) -> [String; 3] {
        [
            &["-br", "link"][..],
            &["rule"],
            &["route", "show", "table", "all"],
        ]
        .map(|a| self.ip(a))
    }

    fn dtsd(&self, config: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]);
        command
            .arg(bin_dir().join("dtsd"))
            .arg("--config")
            .arg(config);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A TAP as the wire's twin, with kernel set-up.
const TAP: (&str, &str) = (
    "{ device: net_ring1 }",
    "{ device: \"net_tap0,iface=dtsst0\", interface: dtsst0, addresses: [10.77.0.1/24] }",
);

#[test]
fn nothing_is_left_in_the_kernel() {
    let site = Site::new();
    let namespace = Namespace::new("left");
    let before = namespace.state();
    #[rustfmt::skip]
    let late: [(&str, &str, u32, &str); 2] = [
        ("net_ring3", "\"net_af_packet0,iface=nonexistent\"", 18, "ports.link.host.device: "),
        ("net_ring3 }", "net_ring3, interface: nonexistent }", 18, "ports.link.host.interface: "),
    ];
    for (from, to, line, word) in late {
        let file = site.configure(&[TAP, (from, to)]);
        let said = site.refusal(namespace.dtsd(&file));
        assert_message(&said, &file, line, &[word]);
        assert_eq!(namespace.state(), before, "after {said}");
    }
    let file = site.configure(&[TAP]);
    let mut daemon = Daemon::spawn(namespace.dtsd(&file), &site);
    daemon.await_ready();
    assert!(namespace.ip(&["-br", "link"]).contains("dtsst0"));
    assert!(daemon.terminate().success());
    assert_eq!(namespace.state(), before, "after SIGTERM");
    daemon.assert_gone();
}

// --- Life and death ---

#[test]
fn sockets_have_one_daemon() {
    let site = Site::new();
    let mut first = site.serve(&[]);
    let file = site.path("dtsd.yaml");
    let other = Site::new();
    let in_use = "in use, a daemon is running there";
    let (rpc, admin, metrics) = (site.rpc(), site.admin(), site.metrics.to_string());
    let (rpc, admin) = (rpc.to_str().unwrap(), admin.to_str().unwrap());
    for (from, to, line, key) in [
        ("DIR/rpc.sock", rpc, 22, "control.rpc_socket: "),
        ("DIR/admin.sock", admin, 23, "control.admin_socket: "),
        ("METRICS", metrics.as_str(), 24, "control.metrics: "),
    ] {
        let file = other.configure(&[(from, to)]);
        let said = other.refusal(dtsd(&file));
        assert_message(&said, &file, line, &[key, in_use]);
        first.assert_serves(&site);
    }
    assert_eq!(site.files(), ["admin.sock", "dtsd.yaml", "rpc.sock"]);

    // SIGTERM takes the sockets along, SIGKILL cannot, and neither hinders the next.
    assert!(first.terminate().success());
    first.assert_gone();
    assert_eq!(site.files(), ["dtsd.yaml"]);
    let mut second = site.serve(&[]);
    kill(second.pid(), Signal::SIGKILL).unwrap();
    second.wait();
    assert_eq!(site.files(), ["admin.sock", "dtsd.yaml", "rpc.sock"]);
    let mut third = Daemon::spawn(dtsd(&file), &site);
    third.await_ready();
    third.assert_serves(&site);
    kill(third.pid(), Signal::SIGINT).unwrap();
    assert!(third.wait().success());
    assert_eq!(site.files(), ["dtsd.yaml"]);
    // The end of the killed one is not ours to tidy, but the test's.
    let _ = fs::remove_dir(format!("/run/dpdk/dts{}", second.pid()));
}

#[test]
fn a_daemon_that_is_stopped_while_it_starts_leaves_nothing() {
    let site = Site::new();
    let file = site.configure(&[]);
    let mut daemon = Daemon::spawn(dtsd(&file), &site);
    // The sockets come first; the EAL and the devices take far longer.
    eventually("its first socket", || site.rpc().exists().then_some(()));
    let status = daemon.terminate();
    assert_eq!(site.files(), ["dtsd.yaml"], "{status}");
    assert!(status.success(), "{status}");
    daemon.assert_gone();
}

// --- Garbage ---

/// A connection to the RPC socket that does not wait for ever.
fn rpc(site: &Site) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(&site.rpc()).unwrap()).unwrap();
    fd
}

fn send(connection: &OwnedFd, message: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let parts = [IoSlice::new(message)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(connection.as_raw_fd(), &parts, rights, flags, None)
}

/// Sends a message and waits for the code of its failure; `None` where the daemon
/// hangs up.
fn ask(connection: &OwnedFd, message: &[u8], fds: &[RawFd]) -> Option<FailCode> {
    send(connection, message, fds).unwrap();
    let mut buffer = vec![0; MAX_MESSAGE];
    let len = recv(connection.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    match decode_answer(&buffer[..len]) {
        _ if len == 0 => None,
        Ok(Answer::Failed { code, .. }) => Some(code),
        other => panic!("{other:?}"),
    }
}

/// A well-formed question.
fn handover() -> Vec<u8> {
    let dest = SocketAddr::from(([192, 0, 2, 2], 80));
    encode_request(dest, 0, b"GET / HTTP/1.1\r\n\r\n").unwrap()
}

/// A connection that no service has.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (one, other)
}

/// Bytes without a pattern, the same in every run (a linear congruence).
fn noise(seed: u32) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    })
}

#[test]
fn malformed_rpcs_leave_the_daemon_serving() {
    let site = Site::new();
    let mut daemon = site.serve(&[]);
    daemon.assert_serves(&site);
    let before = daemon.descriptors();
    let (stream, _peer) = tcp_pair();
    let file = fs::File::open("/dev/null").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    let good = handover();

    // One connection survives all of it: each bad message has its own answer.
    let connection = rpc(&site);
    let mut malformed = 0;
    let mut refused = |message: &[u8], fds: &[RawFd]| {
        let code = ask(&connection, message, fds);
        assert_eq!(code, Some(FailCode::Malformed), "{message:02x?}");
        malformed += 1;
    };
    refused(&good, &[stream.as_raw_fd(), stream.as_raw_fd()]);
    for len in 1..good.len() {
        refused(&good[..len], &[stream.as_raw_fd()]);
    }
    refused(&[&good[..], b"x"].concat(), &[stream.as_raw_fd()]);
    refused(&[&[99], &good[1..]].concat(), &[stream.as_raw_fd()]);
    refused(&vec![1; MAX_MESSAGE + 1], &[]);
    refused(&[1], &[file.as_raw_fd(); 200]);
    for seed in 0..200 {
        let mut bytes = noise(seed);
        // A known version now and then, so that noise reaches the decoder.
        let len = 1 + usize::from(bytes.next().unwrap()) * 3;
        let mut message: Vec<u8> = bytes.take(len).collect();
        message[0] = if seed % 2 == 0 { 1 } else { message[0] };
        refused(&message, &[]);
    }
    // Well-formed, but with the wrong kind of descriptor, or none.
    let wrong: [&dyn AsRawFd; 5] = [&file, &udp, &unix, &listener, &stream];
    for fds in std::iter::once(vec![]).chain(wrong.map(|fd| vec![fd.as_raw_fd()])) {
        let code = ask(&connection, &good, &fds);
        assert_eq!(code, Some(FailCode::NotEligible), "{fds:?}");
    }
    assert_eq!(daemon.rpcs("malformed"), f64::from(malformed));
    drop(connection);

    // Who says nothing, leaves without its answer, or speaks another protocol.
    let silent: Vec<OwnedFd> = (0..64).map(|_| rpc(&site)).collect();
    for seed in 0..64 {
        let message: Vec<u8> = noise(seed).take(100).collect();
        send(&rpc(&site), &message, &[stream.as_raw_fd()]).unwrap();
        send(&rpc(&site), &good, &[stream.as_raw_fd()]).unwrap();
    }
    assert!(UnixStream::connect(site.rpc()).is_err(), "a stream");
    daemon.assert_serves(&site);
    drop(silent);
    eventually("as many descriptors as before", || {
        (daemon.descriptors() == before).then_some(())
    });
    daemon.assert_serves(&site);
    assert!(daemon.terminate().success());
}

#[test]
fn garbage_over_http_leaves_the_daemon_serving() {
    let site = Site::new();
    let mut daemon = site.serve(&[]);
    let patience = Some(PATIENCE);
    let admin = || {
        let stream = UnixStream::connect(site.admin()).unwrap();
        stream.set_read_timeout(patience).map(|()| stream).unwrap()
    };
    let metrics = || {
        let stream = TcpStream::connect(site.metrics).unwrap();
        stream.set_read_timeout(patience).map(|()| stream).unwrap()
    };
    // What is HTTP has an answer.
    for (target, status) in [
        ("/", 404),
        ("/v1/status/x", 404),
        ("/v1/flows?limit=many", 400),
        ("/v1/flows?limit=-1", 400),
        ("/v1/handovers?limit=99999999999999999999999", 400),
        ("/v1/flows?limit=18446744073709551615", 200),
        ("/../../etc/passwd", 404),
    ] {
        assert_eq!(get(admin(), target).unwrap().0, status, "{target}");
    }
    assert_eq!(get(metrics(), "/v1/status").unwrap().0, 404);
    // What is not gets at most an error, and the end of its connection.
    let long = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let length = b"POST /v1/status HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n";
    let blank = b"\r\n\r\n\r\nGET\r\n";
    let mut rubbish = vec![long, length.to_vec(), blank.to_vec(), vec![0; 4096]];
    rubbish.extend((0..50).map(|seed| noise(seed).take(2000).collect()));
    for bytes in &rubbish {
        for answer in [exchange(admin(), bytes), exchange(metrics(), bytes)] {
            let text = String::from_utf8_lossy(&answer);
            assert!(!text.contains("200 OK"), "{text}");
        }
    }
    // Half a request, kept open by many.
    let slow: Vec<UnixStream> = (0..64).map(|_| admin()).collect();
    for mut stream in &slow {
        stream.write_all(b"GET /v1/st").unwrap();
    }
    daemon.assert_serves(&site);
    drop(slow);
    daemon.assert_serves(&site);
    assert!(daemon.terminate().success());
}

/// Sends bytes and the end of them; whatever comes back until the other end
/// closes.
fn exchange(mut stream: impl Read + Write + AsRawFd, bytes: &[u8]) -> Vec<u8> {
    // It may hang up before all is said, and that is right.
    let _ = stream.write_all(bytes);
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Write);
    let mut answer = Vec::new();
    let result = stream.read_to_end(&mut answer);
    // It may also break off; only the end of our patience is a failure.
    let waited = result.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    assert!(!waited, "kept open");
    answer
}

// --- dtsctl ---

/// Exit code, standard output and standard error of dtsctl.
fn dtsctl(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(bin_dir().join("dtsctl"))
        .args(arguments)
        .output();
    let output = output.expect("dtsctl, built before the tests");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn dtsctl_says_whether_there_is_a_daemon() {
    let site = Site::new();
    let admin = site.admin();
    let socket = admin.to_str().unwrap();
    let dead = || {
        for command in ["status", "flows", "handovers"] {
            let (code, out, err) = dtsctl(&["--socket", socket, command]);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{command}: {err}");
            assert_eq!(err.lines().count(), 1, "{err}");
            assert!(
                err.contains(&format!("no daemon answers at {socket}: ")),
                "{err}"
            );
        }
    };
    dead();
    let mut daemon = site.serve(&[]);
    for command in ["status", "flows", "handovers"] {
        let (code, out, err) = dtsctl(&["--socket", socket, command]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{command}");
        assert!(!out.is_empty(), "{command}");
    }
    let (_, out, _) = dtsctl(&["--socket", socket, "status"]);
    assert!(out.contains("web") && out.contains("192.0.2.2"), "{out}");
    kill(daemon.pid(), Signal::SIGKILL).unwrap();
    daemon.wait();
    let _ = fs::remove_dir(format!("/run/dpdk/dts{}", daemon.pid()));
    assert!(admin.exists(), "a killed daemon's socket stays");
    dead();
}

#[test]
fn dtsctl_and_dtsd_judge_a_file_alike() {
    let site = Site::new();
    let file = site.configure(&[]);
    let path = file.to_str().unwrap();
    let ok = format!("{path}: ok\n");
    assert_eq!(
        dtsctl(&["config", "check", path]),
        (Some(0), ok, String::new())
    );
    let check = || run(dtsd(&file).arg("--check"));
    assert_eq!(check(), format!("{path}: ok\n"));
    let file = site.configure(&[("node: 1\n", "node: 1\nnoed: 2\n")]);
    let said = site.refusal(dtsd(&file)) + "\n";
    assert_eq!(
        dtsctl(&["config", "check", path]),
        (Some(2), String::new(), said)
    );
}
