//! A client with byte-exact control, run in the lab's client namespace. Prints one
//! JSON line per connection. Arguments are KEY=VALUE, see [`Plan`].

use dts_tests::client::{Connection, Outcome, pattern};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What to do. Durations are given in milliseconds unless the key says `_us`.
#[derive(Clone, Debug)]
struct Plan {
    /// `to`: address and port.
    to: SocketAddr,
    /// `count`: connections in all.
    count: u64,
    /// `seconds`: stop after this time even if `count` is not reached; 0: never.
    seconds: f64,
    /// `threads`: connections at once.
    threads: u64,
    /// `path`: `{}` stands for the connection's number.
    path: String,
    /// `method`.
    method: String,
    /// `header`: lines added to the head; may be given several times.
    headers: Vec<String>,
    /// `pad`: bytes of an additional header line.
    pad: usize,
    /// `split=1`: the head goes one byte per write, `split_gap_us` apart.
    split: bool,
    split_gap: Duration,
    /// `body`: bytes of the test pattern; `body_chunk` bytes per write, after
    /// `body_gap_us` each. Chunk 0: in one write with the head.
    body: usize,
    body_chunk: usize,
    body_gap: Duration,
    /// `half_close=1`: shut the sending side down right after the request.
    half_close: bool,
    /// `close=client|server`: who closes first.
    server_closes: bool,
    /// `timeout`: of the handshake, and of every silence after it.
    timeout: Duration,
    /// `gap_us`: pause of a thread between two connections.
    gap: Duration,
    /// `zipf=FILES:EXPONENT`: `{}` in the path is a file's rank, drawn by Zipf's law and
    /// the connection's number.
    zipf: Option<Zipf>,
    /// `hold_ms`: how long a connection stays open after its answer.
    hold: Duration,
}

/// Files of which the one of rank r is asked for in proportion to 1 / r^exponent.
#[derive(Clone, Debug)]
struct Zipf {
    /// For each rank: the chance of it and of those before.
    up_to: Vec<f64>,
}

impl Zipf {
    fn parse(text: &str) -> Result<Self, String> {
        let (files, exponent) = text.split_once(':').ok_or("not FILES:EXPONENT")?;
        let files: u32 = files.parse().map_err(|e| format!("{files}: {e}"))?;
        let exponent: f64 = exponent.parse().map_err(|e| format!("{exponent}: {e}"))?;
        let mut sum = 0.0;
        let mut up_to = Vec::new();
        for rank in 1..=files {
            sum += f64::from(rank).powf(-exponent);
            up_to.push(sum);
        }
        up_to.iter_mut().for_each(|chance| *chance /= sum);
        Ok(Self { up_to })
    }

    /// The rank, from 1, for the connection of this number: the same in every run.
    fn rank(&self, number: u64) -> usize {
        let mut hasher = SipHasher13::new_with_key(b"labclient's zipf");
        hasher.write_u64(number);
        // 53 bits fill the mantissa.
        let uniform = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
        1 + self.up_to.partition_point(|chance| *chance <= uniform)
    }
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            to: SocketAddr::from(([10, 77, 0, 100], 80)),
            count: 1,
            seconds: 0.0,
            threads: 1,
            path: "/".into(),
            method: "GET".into(),
            headers: Vec::new(),
            pad: 0,
            split: false,
            split_gap: Duration::ZERO,
            body: 0,
            body_chunk: 0,
            body_gap: Duration::ZERO,
            half_close: false,
            server_closes: false,
            timeout: Duration::from_secs(10),
            gap: Duration::ZERO,
            hold: Duration::ZERO,
            zipf: None,
        };
        for argument in arguments {
            let (key, value) = argument
                .split_once('=')
                .ok_or_else(|| format!("{argument}: not KEY=VALUE"))?;
            let bad = |e: &dyn std::fmt::Display| format!("{argument}: {e}");
            let number = || value.parse::<u64>().map_err(|e| bad(&e));
            match key {
                "to" => plan.to = value.parse().map_err(|e| bad(&e))?,
                "count" => plan.count = number()?,
                "seconds" => plan.seconds = value.parse().map_err(|e| bad(&e))?,
                "threads" => plan.threads = number()?,
                "path" => plan.path = value.into(),
                "method" => plan.method = value.into(),
                "header" => plan.headers.push(value.into()),
                "pad" => plan.pad = number()? as usize,
                "split" => plan.split = value == "1",
                "split_gap_us" => plan.split_gap = Duration::from_micros(number()?),
                "body" => plan.body = number()? as usize,
                "body_chunk" => plan.body_chunk = number()? as usize,
                "body_gap_us" => plan.body_gap = Duration::from_micros(number()?),
                "half_close" => plan.half_close = value == "1",
                "close" => plan.server_closes = value == "server",
                "timeout" => plan.timeout = Duration::from_millis(number()?),
                "zipf" => plan.zipf = Some(Zipf::parse(value).map_err(|e| bad(&e))?),
                "hold_ms" => plan.hold = Duration::from_millis(number()?),
                "gap_us" => plan.gap = Duration::from_micros(number()?),
                _ => return Err(format!("{key}: unknown key")),
            }
        }
        Ok(plan)
    }

    fn head(&self, path: &str) -> Vec<u8> {
        let mut head = format!("{} {path} HTTP/1.1\r\n", self.method);
        if !self
            .headers
            .iter()
            .any(|h| h.to_ascii_lowercase().starts_with("host:"))
        {
            head += "Host: lab\r\n";
        }
        for header in &self.headers {
            head += header;
            head += "\r\n";
        }
        head += if self.server_closes {
            "Connection: close\r\n"
        } else {
            "X-Close: 1\r\n"
        };
        if self.body > 0 {
            head += &format!("Content-Length: {}\r\n", self.body);
        }
        if self.pad > 0 {
            head += &format!("X-Pad: {}\r\n", "p".repeat(self.pad));
        }
        head += "\r\n";
        head.into_bytes()
    }
}

fn send(plan: &Plan, stream: &mut TcpStream, path: &str, body: &[u8]) -> io::Result<()> {
    let mut head = plan.head(path);
    if plan.body_chunk == 0 {
        head.extend_from_slice(body);
    }
    if plan.split {
        for byte in &head {
            stream.write_all(std::slice::from_ref(byte))?;
            if !plan.split_gap.is_zero() {
                thread::sleep(plan.split_gap);
            }
        }
    } else {
        stream.write_all(&head)?;
    }
    if plan.body_chunk > 0 {
        for chunk in body.chunks(plan.body_chunk) {
            thread::sleep(plan.body_gap);
            stream.write_all(chunk)?;
        }
    }
    if plan.half_close {
        stream.shutdown(Shutdown::Write)?;
    }
    Ok(())
}

/// Reads one answer into `result`; an error of kind `UnexpectedEof` is a server that closed too early.
fn receive(
    plan: &Plan,
    stream: &mut TcpStream,
    asked: Instant,
    result: &mut Connection,
) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 16384];
    let mut whole = None;
    while whole.is_none_or(|end| answer.len() < end) {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("end of file after {} bytes", answer.len()),
            ));
        }
        if answer.is_empty() {
            result.first_byte_ms = asked.elapsed().as_secs_f64() * 1e3;
        }
        answer.extend_from_slice(&buffer[..n]);
        if whole.is_none()
            && let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..at]).into_owned();
            let field = |name: &str| {
                let line = head
                    .lines()
                    .find(|l| l.to_ascii_lowercase().starts_with(name));
                line.map_or("", |l| l[name.len()..].trim()).to_owned()
            };
            result.status = head
                .split(' ')
                .nth(1)
                .and_then(|s| s.parse().ok())
                .unwrap_or(0);
            result.node = field("x-node:");
            whole = Some(at + 4 + field("content-length:").parse::<usize>().unwrap_or(0));
        }
    }
    if let Some(end) = whole
        && answer.len() > end
    {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("{} bytes behind the answer", answer.len() - end),
        ));
    }
    if plan.server_closes || plan.half_close {
        match stream.read(&mut buffer)? {
            0 => {}
            n => {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("{n} bytes behind the answer"),
                ));
            }
        }
    }
    Ok(())
}

fn connection(plan: &Plan, number: u64, body: &[u8]) -> Connection {
    let start = Instant::now();
    let name = match &plan.zipf {
        Some(zipf) => zipf.rank(number) as u64,
        None => number,
    };
    let mut result = Connection {
        path: plan.path.replace("{}", &name.to_string()),
        begun: dts_tests::cluster::epoch_now(),
        port: 0,
        outcome: Outcome::Answered,
        status: 0,
        node: String::new(),
        first_byte_ms: 0.0,
        total_ms: 0.0,
        note: String::new(),
    };
    let path = result.path.clone();
    match TcpStream::connect_timeout(&plan.to, plan.timeout) {
        Err(error) => {
            result.outcome = Outcome::NotConnected;
            result.note = error.to_string();
        }
        Ok(mut stream) => {
            let mut talk = || {
                result.port = stream.local_addr()?.port();
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(plan.timeout))?;
                stream.set_write_timeout(Some(plan.timeout))?;
                send(plan, &mut stream, &path, body)?;
                receive(plan, &mut stream, Instant::now(), &mut result)?;
                thread::sleep(plan.hold);
                io::Result::Ok(())
            };
            if let Err(error) = talk() {
                result.note = error.to_string();
                result.outcome = match error.kind() {
                    ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
                    | ErrorKind::ConnectionAborted => Outcome::Reset,
                    ErrorKind::UnexpectedEof => Outcome::Closed,
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Hung,
                    _ => Outcome::Failed,
                };
            }
        }
    }
    result.total_ms = start.elapsed().as_secs_f64() * 1e3;
    result
}

fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("labclient: {error}");
            return ExitCode::from(2);
        }
    };
    let body = pattern(plan.body);
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let results: Vec<Connection> = thread::scope(|scope| {
        let worker = || {
            let mut mine = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let over = plan.seconds > 0.0 && start.elapsed().as_secs_f64() >= plan.seconds;
                if number >= plan.count || over {
                    return mine;
                }
                mine.push(connection(&plan, number, &body));
                if !plan.gap.is_zero() {
                    thread::sleep(plan.gap);
                }
            }
        };
        let threads: Vec<_> = (0..plan.threads).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().expect("a client thread panicked"))
            .collect()
    });
    let mut out = io::stdout().lock();
    for result in &results {
        let line = serde_json::to_string(result).unwrap_or_default();
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
