//! A `dtsd` that a test starts itself, and how to ask it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::bin_dir;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A loopback address for a daemon's metrics that no test beside this one has, in
/// this process or in another.
#[must_use]
pub fn metrics_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(9464);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, 64 | a, b, c], port))
}

/// The command that runs a daemon with this configuration.
#[must_use]
pub fn dtsd(config: &Path) -> Command {
    let mut command = Command::new(bin_dir().join("dtsd"));
    command.arg("--config").arg(config);
    command
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// There is none within [`PATIENCE`].
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        sleep(Duration::from_millis(10));
    }
}

/// Status and body of an HTTP GET; `None` where the connection ends before.
pub fn get(mut stream: impl Read + Write, target: &str) -> Option<(u16, String)> {
    write!(stream, "GET {target} HTTP/1.0\r\nHost: dtsd\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// A running daemon; it is killed where a test ends early.
#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// The program is not there.
    pub fn spawn(command: &mut Command, stdout: File, stderr: File) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("dtsd, built before the tests");
        Self(child)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// The kernel does not tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of dtsd", || self.ended())
    }

    /// Ends it as a service manager does.
    ///
    /// # Panics
    /// It cannot be told, or does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        self.wait()
    }
}
