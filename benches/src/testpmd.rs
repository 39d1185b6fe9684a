//! The peer: `dpdk-testpmd`, DPDK's own forwarder.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What it is started with.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Devices.
    pub devices: Vec<String>,
    /// Forwarding mode: `io`, `macswap`, `csum`.
    pub mode: &'static str,
    /// Core of the command line, and the one that forwards.
    pub cores: [u16; 2],
    /// Packet buffers.
    pub mbufs: u32,
    /// Bytes of a buffer, where not its default.
    pub room: Option<u16>,
    /// Hugepages, or pages of the usual size.
    pub hugepages: bool,
    /// Megabytes of packet memory.
    pub megabytes: u64,
}

/// A running `dpdk-testpmd` that does not forward yet.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Testpmd {
    /// Starts it.
    ///
    /// # Errors
    /// It is not there, or ends at once.
    pub fn start(spec: &Spec) -> Result<Self> {
        let [command_line, forwards] = spec.cores;
        let mut c = Command::new("stdbuf");
        c.args(["-oL", "dpdk-testpmd", "--no-telemetry", "--no-pci"])
            .args(["-l", &format!("{command_line},{forwards}")])
            .args(["--main-lcore", &command_line.to_string()])
            .args(["-m", &spec.megabytes.to_string()])
            .args(["--file-prefix", &format!("dtsbench{}", std::process::id())]);
        if spec.hugepages {
            c.arg("--in-memory");
        } else {
            c.args(["--no-huge", "--no-shconf"]);
        }
        for device in &spec.devices {
            c.args(["--vdev", device]);
        }
        // What waits in its ports when it starts belongs to somebody.
        c.args(["--", "-i", "--no-flush-rx", "--forward-mode", spec.mode])
            .arg(format!("--total-num-mbufs={}", spec.mbufs));
        if let Some(room) = spec.room {
            c.arg(format!("--mbuf-size={room}"));
        }
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("dpdk-testpmd")?;
        let stdin = child.stdin.take().context("a pipe was asked for")?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        let mut this = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        // It answers once it has started.
        this.received()?;
        Ok(this)
    }

    fn say(&mut self, command: &str) -> Result<()> {
        Ok(self.stdin.write_all(format!("{command}\n").as_bytes())?)
    }

    /// Begins to forward.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&mut self) -> Result<()> {
        self.say("start")
    }

    /// Ceases to forward.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&mut self) -> Result<()> {
        self.say("stop")?;
        self.received().map(|_| ())
    }

    /// Frames that its first port has received.
    ///
    /// # Errors
    /// It is gone.
    pub fn received(&mut self) -> Result<u64> {
        self.say("show port stats 0")?;
        let (mut line, mut asked) = (String::new(), false);
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("dpdk-testpmd is gone");
            }
            // What `stop` has to say of its own looks alike.
            asked |= line.contains("NIC statistics for port 0");
            if let Some(rest) = line.trim().strip_prefix("RX-packets:").filter(|_| asked) {
                let count = rest.split_whitespace().next().unwrap_or_default();
                return count.parse().context("dpdk-testpmd's count of frames");
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.say("stop");
        let _ = self.say("quit");
        // Ends by itself, but a peer that hangs must not hold the bench.
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
