//! Checks of this node's own applications: a TCP connection, an HTTP request or a
//! command, now and then, each service by a thread of its own.
//!
//! [`State`] has the rules and no clock; [`probe`] asks the application.

use crate::board::HealthSink;
use crate::threads;
use dts_config::{Check, Config, Health};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread looks for a sign or a stop while it waits.
const LOOK: Duration = Duration::from_millis(50);
/// How often a command is asked whether it has ended.
const REAP: Duration = Duration::from_millis(5);
/// Longest head of an answer that is read for its status, bytes.
const HEAD_MAX: usize = 8192;
/// Most header fields of an answer.
const FIELDS_MAX: usize = 100;

/// What is believed of an application, and what has been seen of it.
///
/// Nothing is believed before the first check, which is then believed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    healthy: Option<bool>,
    /// Checks in a row that contradict it.
    against: u8,
    rise: u8,
    fall: u8,
}

impl State {
    /// Nothing is known; thresholds as [`Health::rise`] and [`Health::fall`].
    #[must_use]
    pub const fn new(rise: u8, fall: u8) -> Self {
        Self {
            healthy: None,
            against: 0,
            rise,
            fall,
        }
    }

    /// What is believed: healthy as long as nothing is known.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.healthy.unwrap_or(true)
    }

    /// Takes a check into account. One that failed after a passive sign, a handover that
    /// was refused here, counts at once. Whether the belief has changed.
    pub fn checked(&mut self, passed: bool, sign: bool) -> bool {
        let before = self.healthy;
        if before == Some(passed) {
            self.against = 0;
            return false;
        }
        let threshold = match (before, passed) {
            (None, _) => 1,
            (Some(_), true) => self.rise,
            (Some(_), false) if sign => 1,
            (Some(_), false) => self.fall,
        };
        self.against = self.against.saturating_add(1);
        if self.against < threshold {
            return false;
        }
        (self.healthy, self.against) = (Some(passed), 0);
        true
    }
}

/// Why an application did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It took longer than [`Health::timeout`].
    #[error("no answer in time")]
    Late,
    /// No connection, or it broke.
    #[error("{0}")]
    Io(io::Error),
    /// An answer with another status.
    #[error("status {0}")]
    Status(u16),
    /// What came is no answer of HTTP/1.
    #[error("no HTTP answer")]
    NoAnswer,
    /// The command ended otherwise than with 0.
    #[error("the command ended with {0}")]
    Command(std::process::ExitStatus),
}

/// Asks the application at `at` once.
///
/// # Errors
/// It did not pass: see [`Failed`].
pub fn probe(check: &Check, at: SocketAddr, timeout: Duration) -> Result<(), Failed> {
    let deadline = Instant::now() + timeout;
    match check {
        Check::Tcp => connect(at, deadline).map(drop),
        Check::Http { path, host, status } => {
            let host = host.clone().unwrap_or_else(|| match at {
                SocketAddr::V4(at) => at.ip().to_string(),
                SocketAddr::V6(at) => format!("[{}]", at.ip()),
            });
            let found = ask(at, path, &host, deadline)?;
            match status.contains(&found) {
                true => Ok(()),
                false => Err(Failed::Status(found)),
            }
        }
        Check::Command(words) => run(words, deadline),
    }
}

fn left(deadline: Instant) -> Result<Duration, Failed> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(Failed::Late),
        false => Ok(left),
    }
}

fn failed(error: io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failed::Late,
        _ => Failed::Io(error),
    }
}

fn connect(at: SocketAddr, deadline: Instant) -> Result<TcpStream, Failed> {
    TcpStream::connect_timeout(&at, left(deadline)?).map_err(failed)
}

/// The status of the answer to a GET request.
fn ask(at: SocketAddr, path: &str, host: &str, deadline: Instant) -> Result<u16, Failed> {
    let mut stream = connect(at, deadline)?;
    stream
        .set_write_timeout(Some(left(deadline)?))
        .map_err(failed)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dtsd\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut head = Vec::new();
    loop {
        stream
            .set_read_timeout(Some(left(deadline)?))
            .map_err(failed)?;
        let mut bytes = [0; 1024];
        let got = match stream.read(&mut bytes) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        head.extend_from_slice(&bytes[..got]);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(_)) => return response.code.ok_or(Failed::NoAnswer),
            Ok(httparse::Status::Partial) if got > 0 && head.len() < HEAD_MAX => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(Failed::NoAnswer),
        }
    }
}

/// Runs a command, which is killed when its time is over.
fn run(words: &[String], deadline: Instant) -> Result<(), Failed> {
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command.args(words.iter().skip(1));
    command.stdin(Stdio::null());
    command.stdout(Stdio::null());
    command.stderr(Stdio::null());
    let mut child = command.spawn().map_err(Failed::Io)?;
    loop {
        match child.try_wait().map_err(Failed::Io)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(Failed::Command(status)),
            None => {}
        }
        match left(deadline) {
            Ok(left) => std::thread::sleep(left.min(REAP)),
            Err(late) => {
                child.kill().map_err(Failed::Io)?;
                child.wait().map_err(Failed::Io)?;
                return Err(late);
            }
        }
    }
}

/// What checks found.
#[derive(Debug)]
pub struct HealthMetrics {
    healthy: IntGaugeVec,
    checks: IntCounterVec,
}

impl HealthMetrics {
    /// Registers them; a service without checks has none.
    ///
    /// # Errors
    /// A metric of this name is there already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let healthy = IntGaugeVec::new(
            Opts::new(
                "dts_service_healthy",
                "1 if this node's application of the service passes its checks.",
            ),
            &["service"],
        )?;
        let checks = IntCounterVec::new(
            Opts::new(
                "dts_health_checks_total",
                "Checks of this node's applications, by result.",
            ),
            &["service", "result"],
        )?;
        registry.register(Box::new(healthy.clone()))?;
        registry.register(Box::new(checks.clone()))?;
        Ok(Self { healthy, checks })
    }

    fn count(&self, service: &str, passed: bool) {
        let result = if passed { "passed" } else { "failed" };
        self.checks.with_label_values(&[service, result]).inc();
    }

    fn show(&self, service: &str, healthy: bool) {
        let gauge = self.healthy.with_label_values(&[service]);
        gauge.set(healthy.into());
    }
}

/// How many handovers this node has refused as destination: a passive sign that an
/// application is not well.
pub type Refusals = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One service's checks.
struct Checker {
    service: String,
    at: SocketAddr,
    health: Health,
    state: State,
    sink: Arc<dyn HealthSink>,
    metrics: Arc<HealthMetrics>,
    refusals: Refusals,
    refused: u64,
}

/// The running threads; dropping this stops them.
pub struct Checks {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Checks {
    /// Checks every service that has a check, from now on.
    ///
    /// # Errors
    /// The process has no room for another thread.
    pub fn start(
        config: &Config,
        sink: &Arc<dyn HealthSink>,
        metrics: &Arc<HealthMetrics>,
        refusals: &Refusals,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut checks = Self {
            stop: Arc::clone(&stop),
            threads: Vec::new(),
        };
        for service in &config.services {
            let Some(health) = &service.health else {
                continue;
            };
            let checker = Checker {
                service: service.name.clone(),
                at: SocketAddr::new(service.vip, service.application_port),
                health: health.clone(),
                state: State::new(health.rise, health.fall),
                sink: Arc::clone(sink),
                metrics: Arc::clone(metrics),
                refused: refusals(),
                refusals: Arc::clone(refusals),
            };
            let stopped = Arc::clone(&stop);
            let run = move || checker.run(&stopped);
            checks.threads.push(threads::spawn("dts-health", run)?);
        }
        Ok(checks)
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

impl Checker {
    fn run(mut self, stop: &AtomicBool) {
        self.metrics.show(&self.service, self.state.healthy());
        let mut sign = false;
        while !stop.load(Ordering::Relaxed) {
            let next = Instant::now() + self.health.interval;
            self.check(sign);
            sign = self.wait(next, stop);
        }
    }

    fn check(&mut self, sign: bool) {
        let found = probe(&self.health.check, self.at, self.health.timeout);
        self.metrics.count(&self.service, found.is_ok());
        if !self.state.checked(found.is_ok(), sign) {
            return;
        }
        let healthy = self.state.healthy();
        self.metrics.show(&self.service, healthy);
        self.sink.set(&self.service, healthy);
        match found {
            Ok(()) => tracing::info!(service = self.service, "healthy"),
            Err(error) => tracing::warn!(service = self.service, %error, "unhealthy"),
        }
    }

    /// Waits until `next`, or for a passive sign: whether there was one.
    fn wait(&mut self, next: Instant, stop: &AtomicBool) -> bool {
        while !stop.load(Ordering::Relaxed) {
            let refused = (self.refusals)();
            // An application that is known to be unhealthy refuses; that is no news.
            let sign = refused > self.refused && self.state.healthy();
            self.refused = refused;
            let left = next.saturating_duration_since(Instant::now());
            if sign || left.is_zero() {
                return sign;
            }
            std::thread::sleep(left.min(LOOK));
        }
        false
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
