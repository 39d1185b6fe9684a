//! A lab of `deploy/lab`: raised, asked, and taken down when dropped.

use crate::client::{Connection, Outcome};
use crate::metrics::Metrics;
use serde::Deserialize;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How to raise a lab.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Prefix of all its names.
    pub prefix: &'static str,
    /// How many nodes it has, 1 to 32.
    pub nodes: u16,
    /// Settings for `lab up --config`, one KEY=VALUE per line.
    pub overlay: &'static str,
    /// The program `labclient` of this crate.
    pub client: &'static str,
    /// Where captures and the overlay are written.
    pub scratch: &'static str,
}

/// A handover as its source's `/v1/handovers` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Handover {
    /// Seconds since the epoch.
    pub time: f64,
    /// Client address and port.
    pub client: String,
    /// Source node.
    pub source: u16,
    /// Destination node.
    pub destination: Option<u16>,
    /// `accepted`, `refused`, ...
    pub outcome: String,
    /// `fast-open`, `handshake`, `paper`; `None` unless accepted.
    pub replay: Option<String>,
    /// From request to answer, microseconds.
    pub duration_us: u64,
    /// Why it failed.
    #[serde(default)]
    pub reason: String,
}

/// What the clients of a test speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// What stands behind the name of a test over it.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "_v6",
        }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    setup: Setup,
    /// Of the test that runs now.
    family: Cell<Family>,
    facts: HashMap<String, String>,
    /// Dropped last, when the lab is down.
    _turn: UnixListener,
}

/// How long a run of the tests waits for another one on this machine.
const TURN: Duration = Duration::from_secs(1200);

/// The right to use a prefix on this machine: a name in the abstract socket
/// namespace, which the kernel gives back whatever becomes of its holder. Two runs
/// of the tests would otherwise take down each other's lab.
fn turn(prefix: &str) -> Result<UnixListener, String> {
    let name = format!("dts-tests-lab-{prefix}");
    let address = SocketAddr::from_abstract_name(&name).map_err(|e| format!("{name}: {e}"))?;
    let deadline = Instant::now() + TURN;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(listener),
            Err(error) if Instant::now() >= deadline => {
                return Err(format!(
                    "another run of the tests has lab {prefix}: {error}"
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lab/lab")
}

/// The daemons beside the running program, unless DTS_BIN says otherwise.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DTS_BIN") {
        return dir.into();
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new(""));
    // Cargo keeps test programs in a folder below.
    match dir.parent() {
        Some(above) if dir.ends_with("deps") => above.to_owned(),
        _ => dir.to_owned(),
    }
}

fn lab_command(prefix: &str) -> Command {
    let mut command = Command::new(script());
    command
        .args(["--prefix", prefix])
        .env("DTS_BIN", bin_dir())
        .stdin(Stdio::null());
    command
}

/// Runs `command`; its standard output, or what it said when it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    Err(format!(
        "{command:?}: {}: {}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr),
        text
    ))
}

impl Lab {
    /// Raises a lab, after taking down what an earlier run may have
    /// left.
    ///
    /// # Errors
    /// What the lab said: privileges, tools or programs are missing, or a node did
    /// not become ready.
    pub fn up(setup: &Setup) -> Result<Self, String> {
        fs::create_dir_all(setup.scratch).map_err(|e| format!("{}: {e}", setup.scratch))?;
        let overlay = Path::new(setup.scratch).join(format!("{}.overlay", setup.prefix));
        fs::write(&overlay, setup.overlay).map_err(|e| format!("{}: {e}", overlay.display()))?;
        let turn = turn(setup.prefix)?;
        output(lab_command(setup.prefix).arg("down"))?;
        let mut lab = Self {
            setup: setup.clone(),
            family: Cell::new(Family::V4),
            facts: HashMap::new(),
            _turn: turn,
        };
        output(
            lab_command(setup.prefix)
                .args(["up", "--nodes", &setup.nodes.to_string(), "--config"])
                .arg(&overlay),
        )?;
        let env = output(lab_command(setup.prefix).arg("env"))?;
        lab.facts = env
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        Ok(lab)
    }

    /// A test over `family` begins: what earlier ones have left with the applications
    /// is gone, so that the same test may run over each family.
    ///
    /// # Panics
    /// A file cannot be removed or emptied.
    pub fn begin(&self, family: Family) {
        self.family.set(family);
        for node in self.nodes() {
            // nginx has its log open for appending.
            let log = self.dir(node).join("access.log");
            fs::write(&log, "").unwrap_or_else(|e| panic!("{}: {e}", log.display()));
            let uploads = self.dir(node).join("upload");
            for entry in fs::read_dir(&uploads).expect("the lab makes it") {
                let path = entry.expect("a directory entry").path();
                fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        }
    }

    /// The ids of its nodes.
    pub fn nodes(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.setup.nodes
    }

    /// What the clients of this test speak.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family.get()
    }

    /// A fact that has a `6` behind its name where it is one of IPv6.
    fn address(&self, key: &str) -> &str {
        match self.family() {
            Family::V4 => self.fact(key),
            Family::V6 => self.fact(&format!("{key}6")),
        }
    }

    /// The service's address.
    #[must_use]
    pub fn vip(&self) -> &str {
        self.address("VIP")
    }

    /// The client's address.
    ///
    /// # Panics
    /// The lab says something else.
    #[must_use]
    pub fn client_address(&self) -> IpAddr {
        let address = self.address("CLIENT");
        address.parse().unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    /// Whether `address` is the client's.
    #[must_use]
    pub fn is_client(&self, address: &str) -> bool {
        address == self.fact("CLIENT") || address == self.fact("CLIENT6")
    }

    /// Another address on the wire: 1 to 3 are the nodes'.
    #[must_use]
    pub fn on_wire(&self, last: u16) -> String {
        match self.family() {
            Family::V4 => format!("{}.{last}", self.fact("WIRE_NET")),
            Family::V6 => format!("{}{last}", self.fact("WIRE_NET6")),
        }
    }

    /// The service's address and port.
    #[must_use]
    pub fn service(&self) -> String {
        match self.family() {
            Family::V4 => format!("{}:80", self.vip()),
            Family::V6 => format!("[{}]:80", self.vip()),
        }
    }

    /// A path at the service.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.service())
    }

    /// A line of `lab env`.
    ///
    /// # Panics
    /// There is no such fact.
    #[must_use]
    pub fn fact(&self, key: &str) -> &str {
        self.facts
            .get(key)
            .unwrap_or_else(|| panic!("the lab has no fact {key}"))
    }

    /// The name of one of the lab's network namespaces: `client`, `sw`, `nodeN`.
    #[must_use]
    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.setup.prefix)
    }

    /// The directory of a node's configuration and logs.
    #[must_use]
    pub fn dir(&self, node: u16) -> PathBuf {
        self.fact(&format!("NODE{node}_DIR")).into()
    }

    /// The node whose wire frames bear this source address, 0 for none.
    #[must_use]
    pub fn node_of_mac(&self, mac: &str) -> u16 {
        self.nodes()
            .find(|n| self.fact(&format!("NODE{n}_WIRE_MAC")) == mac)
            .unwrap_or(0)
    }

    /// Runs a command of the lab script.
    ///
    /// # Panics
    /// It failed.
    pub fn lab(&self, arguments: &[&str]) -> String {
        output(lab_command(self.setup.prefix).args(arguments)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Starts a role of a node that was stopped, with these environment variables.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start_with(&self, node: u16, role: &str, variables: &[(&str, &str)]) {
        let mut command = lab_command(self.setup.prefix);
        command.args(["start", &node.to_string(), role]);
        output(command.envs(variables.iter().copied())).unwrap_or_else(|e| panic!("{e}"));
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = lab_command(self.setup.prefix);
        command.args(["exec", name, "--"]).args(arguments);
        command
    }

    /// Runs a program in a namespace; its standard output.
    ///
    /// # Panics
    /// It failed.
    pub fn exec(&self, name: &str, arguments: &[&str]) -> String {
        output(&mut self.command(name, arguments)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs a program in a namespace, whatever it says.
    ///
    /// # Panics
    /// It could not be started.
    pub fn try_exec(&self, name: &str, arguments: &[&str]) -> Output {
        self.command(name, arguments)
            .output()
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}"))
    }

    /// Starts a program in a namespace; it is killed when the guard is dropped.
    ///
    /// # Panics
    /// It could not be started.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(name, arguments);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(Some(child.unwrap_or_else(|e| panic!("{arguments:?}: {e}"))))
    }

    /// Makes connections with the test client; see its `Plan` for the arguments.
    ///
    /// # Panics
    /// The client failed.
    pub fn load(&self, arguments: &[&str]) -> Vec<Connection> {
        let to = format!("to={}", self.service());
        connections(&self.exec("client", &self.client(&to, arguments)))
    }

    /// The same in the background.
    pub fn start_load(&self, arguments: &[&str]) -> Running {
        let to = format!("to={}", self.service());
        self.spawn("client", &self.client(&to, arguments))
    }

    fn client<'a>(&self, to: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        [&[self.setup.client, to], arguments].concat()
    }

    /// A node's counters.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn metrics(&self, node: u16) -> Metrics {
        Metrics::parse(&self.metrics_text(node))
    }

    /// The same as it is told.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn metrics_text(&self, node: u16) -> String {
        let url = "http://127.0.0.1:9464/metrics";
        self.exec(&format!("node{node}"), &["curl", "-sf", "-m", "5", url])
    }

    /// The sum of a counter over all nodes.
    #[must_use]
    pub fn total(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.nodes()
            .map(|n| self.metrics(n).sum(name, labels) as u64)
            .sum()
    }

    /// The handovers that a node was asked for, newest first.
    ///
    /// # Panics
    /// It does not answer, or something else than a list.
    #[must_use]
    pub fn handovers(&self, node: u16) -> Vec<Handover> {
        let text = self.admin(node, "/v1/handovers?limit=1000");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("/v1/handovers: {e}: {text}"))
    }

    /// Client and service of the flows that a node knows.
    ///
    /// # Panics
    /// It does not answer, or something else than a list.
    #[must_use]
    pub fn flows(&self, node: u16) -> Vec<(String, String)> {
        #[derive(Deserialize)]
        struct Flow {
            client: String,
            vip: String,
        }
        let text = self.admin(node, "/v1/flows?limit=10000");
        let flows: Vec<Flow> =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("/v1/flows: {e}: {text}"));
        flows.into_iter().map(|f| (f.client, f.vip)).collect()
    }

    /// All that a node says of the flows of a client's port, with its number.
    ///
    /// # Panics
    /// It does not answer, or something else than a list.
    #[must_use]
    pub fn flows_of_port(&self, node: u16, port: u16) -> Vec<(u16, serde_json::Value)> {
        let text = self.admin(node, "/v1/flows?limit=10000");
        let flows: Vec<serde_json::Value> =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("/v1/flows: {e}: {text}"));
        let end = format!(":{port}");
        let of = |f: &serde_json::Value| f["client"].as_str().is_some_and(|c| c.ends_with(&end));
        flows.into_iter().filter(of).map(|f| (node, f)).collect()
    }

    fn admin(&self, node: u16, path: &str) -> String {
        let socket = self.dir(node).join("admin.sock");
        let socket = socket.to_str().expect("a lab path is ASCII");
        let url = format!("http://dtsd{path}");
        self.exec(
            &format!("node{node}"),
            &["curl", "-sf", "-m", "5", "--unix-socket", socket, &url],
        )
    }

    /// The newest handover of a client port, whoever was its source.
    #[must_use]
    pub fn handover_of_port(&self, port: u16) -> Option<Handover> {
        let end = format!(":{port}");
        let all = self
            .nodes()
            .flat_map(|n| self.handovers(n))
            .filter(|h| h.client.ends_with(&end));
        all.max_by(|a, b| a.time.total_cmp(&b.time))
    }

    /// How often each path that contains `part` was executed, by the access logs of
    /// all nodes.
    ///
    /// # Panics
    /// A log cannot be read.
    #[must_use]
    pub fn executed(&self, part: &str) -> BTreeMap<String, Vec<u16>> {
        let mut nodes: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for node in self.nodes() {
            let log = self.dir(node).join("access.log");
            let text =
                fs::read_to_string(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
            let paths = text
                .lines()
                .filter_map(|l| l.split('"').nth(1)?.split(' ').nth(1));
            for path in paths.filter(|p| p.contains(part)) {
                nodes.entry(path.to_owned()).or_default().push(node);
            }
        }
        nodes
    }

    /// Every connection was answered with a success, and by `node` where one is
    /// named. Otherwise the failure says what the nodes know of those that were not.
    ///
    /// # Panics
    /// There are other than `count` connections, or one was not answered.
    #[track_caller]
    pub fn assert_answered(&self, connections: &[Connection], count: usize, node: Option<&str>) {
        assert_eq!(connections.len(), count, "connections made");
        let good = |c: &&Connection| {
            c.outcome == Outcome::Answered
                && c.status / 100 == 2
                && node.is_none_or(|n| c.node == n)
        };
        let bad: Vec<_> = connections.iter().filter(|c| !good(c)).collect();
        if bad.is_empty() {
            return;
        }
        let node = node.map(|n| format!(" by {n}")).unwrap_or_default();
        let mut text = format!(
            "{} of {count} connections were not answered{node}",
            bad.len()
        );
        for c in bad.iter().take(5) {
            text += &format!("\n  {c:?}");
            let ours = |h: &Handover| h.client.ends_with(&format!(":{}", c.port));
            for h in self.nodes().flat_map(|n| self.handovers(n)).filter(ours) {
                text += &format!("\n    {h:?}");
            }
        }
        panic!("{text}");
    }

    /// Captures on an interface while `during` runs; the file is left for those who
    /// look into a failure.
    ///
    /// # Panics
    /// The capture failed.
    pub fn capture<T>(
        &self,
        name: &str,
        interface: &str,
        file: &str,
        during: impl FnOnce() -> T,
    ) -> (PathBuf, T) {
        let (prefix, family) = (self.setup.prefix, self.family().suffix());
        let path = Path::new(self.setup.scratch).join(format!("{prefix}-{file}{family}.pcap"));
        let (at, text) = (
            format!("{name}:{interface}"),
            path.to_str().expect("a UTF-8 path"),
        );
        let stop = StopCapture {
            lab: self,
            at: &at,
            file: text,
        };
        self.lab(&["capture", &at, text]);
        let result = during();
        std::mem::forget(stop);
        self.lab(&["capture", &at, text, "stop"]);
        (path, result)
    }

    /// Stops a role of a node until the guard is dropped.
    pub fn without(&self, node: u16, role: &'static str) -> Stopped<'_> {
        let stopped = Stopped {
            lab: self,
            node,
            role,
            paused: false,
        };
        self.lab(&["stop", &node.to_string(), role]);
        stopped
    }

    /// The port that `node`'s proxy listens on: each has one of its own, so that the
    /// stacks of the nodes, which share a kernel, choose different sequence numbers.
    #[must_use]
    pub fn proxy_port(node: u16) -> u16 {
        8000 + node
    }

    /// Kills a role of a node (SIGKILL); it is started when the guard is dropped.
    ///
    /// # Panics
    /// It does not end.
    pub fn killed(&self, node: u16, role: &'static str) -> Stopped<'_> {
        let stopped = Stopped {
            lab: self,
            node,
            role,
            paused: false,
        };
        self.lab(&["kill", &node.to_string(), role]);
        // A process has ended when its last thread has: only then are its ports free.
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = match role {
            "dtsd" => 9464,
            "proxy" => Self::proxy_port(node),
            _ => 80,
        };
        let port = format!("sport = :{port}");
        while !self
            .exec(&format!("node{node}"), &["ss", "-Hltn", &port])
            .is_empty()
        {
            assert!(
                Instant::now() < deadline,
                "node {node}'s {role} does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        stopped
    }

    /// Pauses a role of a node (SIGSTOP) until the guard is dropped.
    pub fn paused(&self, node: u16, role: &'static str) -> Stopped<'_> {
        let stopped = Stopped {
            lab: self,
            node,
            role,
            paused: true,
        };
        self.lab(&["kill", &node.to_string(), role, "STOP"]);
        stopped
    }

    /// Drops frames that come in at a port of the switch and match an nftables
    /// expression, until the guard is dropped. Ports: `wN` and `lN`, the node's end
    /// of wire and link, and `wc`, the client's.
    ///
    /// # Panics
    /// nftables refused.
    pub fn lose(&self, port: &'static str, matching: &str) -> Losing<'_> {
        self.lose_at(port, "ingress", matching)
    }

    /// The same of frames that the switch takes in there (`ingress`), or would send out
    /// there (`egress`).
    ///
    /// # Panics
    /// nftables refused.
    pub fn lose_at(&self, port: &'static str, hook: &str, matching: &str) -> Losing<'_> {
        let rules = format!(
            "add table netdev lose_{port}; add chain netdev lose_{port} c {{ type filter hook {hook} device \"{port}\" \
             priority 0; }}; add rule netdev lose_{port} c {matching} drop"
        );
        let losing = Losing { lab: self, port };
        self.exec("sw", &["nft", &rules]);
        losing
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = output(lab_command(self.setup.prefix).arg("down")) {
            eprintln!("{error}");
        }
    }
}

fn connections(text: &str) -> Vec<Connection> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("labclient said {l:?}: {e}")))
        .collect()
}

/// A program that runs in a namespace.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// Waits for its end; the connections that it reports.
    ///
    /// # Panics
    /// It failed.
    pub fn connections(mut self) -> Vec<Connection> {
        let child = self.0.take().expect("taken once only");
        let done = child
            .wait_with_output()
            .unwrap_or_else(|e| panic!("labclient: {e}"));
        assert!(
            done.status.success(),
            "labclient: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        connections(&String::from_utf8_lossy(&done.stdout))
    }
}

impl Running {
    /// Waits for its end; its exit code, `None` where a signal ended it.
    ///
    /// # Panics
    /// The system does not say.
    pub fn wait(&mut self) -> Option<i32> {
        let child = self.0.as_mut().expect("taken by `connections` only");
        child.wait().unwrap_or_else(|e| panic!("{e}")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // `lab exec` becomes the program, so this reaches it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A role that does not run.
#[derive(Debug)]
pub struct Stopped<'a> {
    lab: &'a Lab,
    node: u16,
    role: &'static str,
    paused: bool,
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let node = self.node.to_string();
        let mut command = lab_command(self.lab.setup.prefix);
        if self.paused {
            command.args(["kill", &node, self.role, "CONT"]);
        } else {
            command.args(["start", &node, self.role]);
        }
        if let Err(error) = output(&mut command) {
            // A panic here would hide the one that may be under way; the next test
            // will notice.
            eprintln!("{error}");
        }
    }
}

/// A cable that loses frames.
#[derive(Debug)]
pub struct Losing<'a> {
    lab: &'a Lab,
    port: &'static str,
}

impl Drop for Losing<'_> {
    fn drop(&mut self) {
        let rule = format!("delete table netdev lose_{}", self.port);
        if let Err(error) = output(&mut self.lab.command("sw", &["nft", &rule])) {
            eprintln!("{error}");
        }
    }
}

/// Ends a capture whose body panicked.
struct StopCapture<'a> {
    lab: &'a Lab,
    at: &'a str,
    file: &'a str,
}

impl Drop for StopCapture<'_> {
    fn drop(&mut self) {
        let _ = output(
            lab_command(self.lab.setup.prefix).args(["capture", self.at, self.file, "stop"]),
        );
    }
}
