//! The lab with its servers, its relay, and pairs of connections through both.

use super::{Asked, Served, Way};
use crate::impair::Cable;
use crate::impair::flow::Report;
use crate::impair::rig::Rig;
use crate::lab::{Lab, Running, bin_dir};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The node that serves.
const SERVER: &str = "node2";
/// Where the server listens that is asked directly.
const DIRECT_PORT: u16 = 8080;
/// What most servers use. Named, for what a kernel uses by itself is its
/// builder's choice.
pub const USUAL_CC: &str = "cubic";
/// The first client port; every pair of a run has a port of its own.
const FIRST_PORT: u16 = 10_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);
/// Behind the last client port.
const END_PORT: u16 = 60_000;

/// What the lab is raised with: every connection is accepted by node 1, and the rules
/// name node 2 for it.
pub const OVERLAY: &str = "POLICY=designated\nDESIGNATED=1\n";

/// The same, with a kernel that does not do Fast Open: replays are handshakes.
pub const HANDSHAKE_OVERLAY: &str = "POLICY=designated\nDESIGNATED=1\nFASTOPEN=0\n";

/// The median of `count` pings, `gap` seconds apart, from the client to node 2's own
/// address, microseconds.
///
/// # Panics
/// Not all were answered.
#[must_use]
pub fn ping(lab: &Lab, count: usize, gap: &str) -> f64 {
    let address = format!("{}.2", lab.fact("WIRE_NET"));
    let text = lab.exec(
        "client",
        &["ping", "-n", "-i", gap, "-c", &count.to_string(), &address],
    );
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|l| l.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(times.len(), count, "{text}");
    times.sort_by(f64::total_cmp);
    times[count / 2] * 1000.0
}

/// Pairs of connections.
#[derive(Clone, Debug)]
pub struct Load {
    /// Pairs.
    pub pairs: usize,
    /// Connections at once.
    pub parallel: usize,
    /// The client's socket: `tcp`, `mptcp`, `tfo`.
    pub kind: &'static str,
    /// Bytes of the request's body.
    pub up: usize,
    /// Bytes of the answer's body.
    pub down: usize,
}

/// One connection: what its three observers say.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The client.
    pub asked: Asked,
    /// The server's stack; `None` where it told nothing.
    pub served: Option<Served>,
    /// The relay.
    pub flow: Report,
}

impl Measured {
    /// What is wrong with it, if anything is: every byte must have come, both ways.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let a = &self.asked;
        if !a.error.is_empty() || a.status != 200 {
            return Some(format!(
                "{:?} port {}: {} {}",
                a.way, a.port, a.status, a.error
            ));
        }
        if !a.up_equal || !a.down_equal || a.node != SERVER {
            return Some(format!("{a:?}"));
        }
        match &self.served {
            Some(s) if s.error.is_empty() => None,
            other => Some(format!("port {}: the server says {other:?}", a.port)),
        }
    }

    /// Frames with payload, SYNs and SYN-ACKs that were sent again, both directions.
    #[must_use]
    pub fn again(&self) -> u64 {
        let of = |d: &crate::impair::flow::Direction| d.again + d.syn_again;
        of(&self.flow.out) + of(&self.flow.back)
    }
}

/// A pair.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Handed over.
    pub service: Measured,
    /// Direct.
    pub direct: Measured,
}

/// See the module.
pub struct Bed<'a> {
    lab: &'a Lab,
    rig: Rig<'a>,
    servers: Vec<(Running, PathBuf)>,
}

impl<'a> Bed<'a> {
    /// Puts the relay and the servers into a lab that was raised with [`OVERLAY`].
    ///
    /// # Panics
    /// The lab refused something.
    #[must_use]
    pub fn new(lab: &'a Lab) -> Self {
        lab.lab(&["stop", "2", "nginx"]);
        // Each connection stands alone: nothing learned from an earlier one.
        for node in ["node1", SERVER] {
            lab.exec(
                node,
                &["sysctl", "-q", "-w", "net.ipv4.tcp_no_metrics_save=1"],
            );
        }
        let mut bed = Self {
            rig: Rig::new(lab),
            lab,
            servers: Vec::new(),
        };
        bed.serve(USUAL_CC);
        bed
    }

    /// The relay.
    pub fn rig(&mut self) -> &mut Rig<'a> {
        &mut self.rig
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// (Re)starts both servers, with this congestion control.
    ///
    /// # Panics
    /// They do not listen.
    pub fn serve(&mut self, cc: &str) {
        self.servers.clear();
        let program = bin_dir().join("labserver");
        let sysctl = "net.ipv4.tcp_fastopen";
        let own = self.lab.exec(SERVER, &["sysctl", "-n", sysctl]);
        for port in [80, DIRECT_PORT] {
            // A listener takes the setting when it is made. Fast Open is for the replay;
            // the server that is asked directly has it off, as most servers do.
            let value = if port == 80 { own.trim() } else { "0" };
            self.lab.exec(
                SERVER,
                &["sysctl", "-q", "-w", &format!("{sysctl}={value}")],
            );
            let records = self.lab.dir(2).join(format!("records-{port}"));
            let arguments = [
                program.to_string_lossy().into_owned(),
                format!("listen=0.0.0.0:{port}"),
                format!("records={}", records.display()),
                format!("node={SERVER}"),
                format!("cc={cc}"),
            ];
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let running = self.lab.spawn(SERVER, &arguments);
            self.servers.push((running, records));
            let filter = format!("sport = :{port}");
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.lab.exec(SERVER, &["ss", "-Hltn", &filter]).is_empty() {
                assert!(Instant::now() < deadline, "no server on port {port}");
                thread::sleep(Duration::from_millis(20));
            }
        }
        self.lab.exec(
            SERVER,
            &["sysctl", "-q", "-w", &format!("{sysctl}={}", own.trim())],
        );
    }

    /// Sets TCP sysctls of the client, `tcp_sack=0` and the like.
    ///
    /// # Panics
    /// The kernel refused.
    pub fn client(&self, settings: &[(&str, u8)]) {
        let settings: Vec<String> = settings
            .iter()
            .map(|(key, value)| format!("net.ipv4.{key}={value}"))
            .collect();
        let mut command = vec!["sysctl", "-q", "-w"];
        command.extend(settings.iter().map(String::as_str));
        self.lab.exec("client", &command);
    }

    /// Makes pairs of connections under these impairments.
    ///
    /// # Panics
    /// The programs failed. What became of the connections is told, not judged.
    pub fn measure(&mut self, seed: u64, cables: &[(&str, Cable)], load: &Load) -> Vec<Pair> {
        let mut first = NEXT_PORT.load(Ordering::Relaxed);
        if usize::from(END_PORT - first) < load.pairs {
            first = FIRST_PORT;
        }
        NEXT_PORT.store(first + load.pairs as u16, Ordering::Relaxed);
        for (_, records) in &self.servers {
            // The server appends to it.
            std::fs::write(records, "").unwrap_or_else(|e| panic!("{}: {e}", records.display()));
        }
        let direct = format!("{}.2:{DIRECT_PORT}", self.lab.fact("WIRE_NET"));
        self.rig.set(seed, cables);
        let arguments = [
            bin_dir().join("pairclient").to_string_lossy().into_owned(),
            format!("service={}:80", self.lab.fact("VIP")),
            format!("direct={direct}"),
            format!("first={first}"),
            format!("pairs={}", load.pairs),
            format!("parallel={}", load.parallel),
            format!("kind={}", load.kind),
            format!("up={}", load.up),
            format!("down={}", load.down),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = self.lab.exec("client", &arguments);
        let asked: Vec<Asked> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("pairclient: {e}: {l}")))
            .collect();
        let served = self.served(asked.iter().filter(|a| a.error.is_empty()).count());
        let flows = self.rig.report("wire").flows;
        let flows: HashMap<(u16, Way), Report> = flows
            .into_iter()
            .filter_map(|f| {
                let way = match f.far.port() {
                    80 => Way::Service,
                    DIRECT_PORT => Way::Direct,
                    _ => return None,
                };
                Some(((f.near.port(), way), f))
            })
            .collect();
        let measured = |port: u16, way: Way| Measured {
            asked: asked
                .iter()
                .find(|a| a.port == port && a.way == way)
                .cloned()
                .unwrap_or_else(|| panic!("pairclient tells nothing of port {port}, {way:?}")),
            served: served.get(&(port, way)).cloned(),
            flow: flows
                .get(&(port, way))
                .cloned()
                .unwrap_or_else(|| panic!("the relay has not seen port {port}, {way:?}")),
        };
        (0..load.pairs as u16)
            .map(|i| Pair {
                service: measured(first + i, Way::Service),
                direct: measured(first + i, Way::Direct),
            })
            .collect()
    }

    /// What the servers tell, once they have told of `count` connections or have had
    /// the time to: a FIN may be lost several times.
    fn served(&self, count: usize) -> HashMap<(u16, Way), Served> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut all = HashMap::new();
            for (_, records) in &self.servers {
                let text = std::fs::read_to_string(records).unwrap_or_default();
                for line in text.lines() {
                    let Ok(served) = serde_json::from_str::<Served>(line) else {
                        // Half a line: it is being written.
                        continue;
                    };
                    let way = if served.at == DIRECT_PORT {
                        Way::Direct
                    } else {
                        Way::Service
                    };
                    all.insert((served.port, way), served);
                }
            }
            if all.len() >= count || Instant::now() > deadline {
                return all;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
