//! Measures first-byte times, run in the lab's client namespace. Each round asks one
//! request of every target, so that targets are compared at the same moments. Prints
//! one JSON line per target. Arguments are KEY=VALUE, see [`Plan`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Pools of the lab's proxy, by the header that picks them.
const POOLS: [&str; 3] = ["a", "b", "c"];
/// Of every silence.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug)]
struct Plan {
    /// `to=A:P[,A:P...]`: a target; may be given several times. Of several addresses
    /// the round's number picks one, as it does the pool.
    targets: Vec<Vec<SocketAddr>>,
    /// `count`: rounds.
    count: usize,
    /// `threads`: rounds at once; targets of one thread are asked one after the other.
    threads: usize,
    /// `keepalive=1`: one connection per thread, pool and target.
    keepalive: bool,
    /// `path`.
    path: String,
    /// `header`: lines added to the head; may be given several times.
    headers: String,
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            targets: Vec::new(),
            count: 1,
            threads: 1,
            keepalive: false,
            path: "/".into(),
            headers: String::new(),
        };
        for argument in arguments {
            let (key, value) = argument
                .split_once('=')
                .ok_or_else(|| format!("{argument}: not KEY=VALUE"))?;
            let bad = |e: &dyn std::fmt::Display| format!("{argument}: {e}");
            let number = || value.parse::<usize>().map_err(|e| bad(&e));
            match key {
                "to" => {
                    let addresses = value.split(',').map(str::parse).collect();
                    let addresses: Result<_, std::net::AddrParseError> = addresses;
                    plan.targets.push(addresses.map_err(|e| bad(&e))?);
                }
                "count" => plan.count = number()?,
                "threads" => plan.threads = number()?.max(1),
                "keepalive" => plan.keepalive = value == "1",
                "path" => plan.path = value.into(),
                "header" => plan.headers += &format!("{value}\r\n"),
                _ => return Err(format!("{key}: unknown key")),
            }
        }
        if plan.targets.is_empty() {
            return Err("no target: to=ADDRESS:PORT".into());
        }
        Ok(plan)
    }

    fn head(&self, pool: &str) -> Vec<u8> {
        let close = if self.keepalive {
            ""
        } else {
            "Connection: close\r\n"
        };
        let Self { path, headers, .. } = self;
        format!("GET {path} HTTP/1.1\r\nHost: lab\r\nX-Pool: {pool}\r\n{close}{headers}\r\n")
            .into_bytes()
    }
}

/// One answered request, microseconds.
#[derive(Clone, Copy)]
struct Times {
    /// From the start of the connection, or of the request on one that was open.
    start: f64,
    /// From the end of the request.
    request: f64,
}

/// Asks once; the whole answer is read.
fn ask(
    plan: &Plan,
    to: SocketAddr,
    head: &[u8],
    kept: &mut Option<TcpStream>,
) -> io::Result<Times> {
    let start = Instant::now();
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream
        }
    };
    stream.write_all(head)?;
    let asked = Instant::now();
    let mut buffer = vec![0; 1 << 18];
    let mut answer = Vec::new();
    let mut times = None;
    // Bytes of the answer and those there will be, once its head is here.
    let (mut got, mut whole) = (0, None);
    while whole.is_none_or(|end| got < end) {
        let n = stream.read(&mut buffer)?;
        let now = Instant::now();
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let micros = |since: Instant| (now - since).as_secs_f64() * 1e6;
        times.get_or_insert(Times {
            start: micros(start),
            request: micros(asked),
        });
        got += n;
        if whole.is_none() {
            answer.extend_from_slice(&buffer[..n]);
            whole = length(&answer)?;
        }
    }
    if plan.keepalive {
        *kept = Some(stream);
    } else {
        // The server closes first, as the head asked.
        let behind = stream.read(&mut buffer)?;
        if behind > 0 {
            return Err(io::Error::other(format!(
                "{behind} bytes behind the answer"
            )));
        }
    }
    times.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Bytes of an answer, as soon as its head is whole.
fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed.parse(answer).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = status else {
        return Ok(None);
    };
    if !matches!(parsed.code, Some(200 | 206)) {
        return Err(io::Error::other(format!("status {:?}", parsed.code)));
    }
    let is_length = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-length");
    let value = parsed.headers.iter().find(is_length);
    let body = value.and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok());
    body.map(|body| Some(head + body))
        .ok_or_else(|| io::Error::other("no content-length"))
}

/// What one thread saw, by target.
type Seen = Vec<(Vec<Times>, usize)>;

fn rounds(plan: &Plan, thread: usize) -> Seen {
    let mut seen: Seen = plan.targets.iter().map(|_| (Vec::new(), 0)).collect();
    let heads = POOLS.map(|pool| plan.head(pool));
    let mut kept: Vec<[Option<TcpStream>; 3]> =
        plan.targets.iter().map(|_| Default::default()).collect();
    for round in (thread..plan.count).step_by(plan.threads) {
        let pool = round / plan.threads % POOLS.len();
        for (i, target) in plan.targets.iter().enumerate() {
            let to = target[pool % target.len()];
            match ask(plan, to, &heads[pool], &mut kept[i][pool]) {
                Ok(times) => seen[i].0.push(times),
                Err(error) => {
                    eprintln!("firstbyte: {to}: {error}");
                    seen[i].1 += 1;
                }
            }
        }
    }
    seen
}

fn percentiles(mut values: Vec<f64>) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    };
    serde_json::json!({
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
        "mean": values.iter().sum::<f64>() / values.len() as f64,
    })
}

fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("firstbyte: {error}");
            return ExitCode::from(2);
        }
    };
    let seen: Vec<Seen> = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                scope.spawn({
                    let plan = &plan;
                    move || rounds(plan, thread)
                })
            })
            .collect();
        let joined = threads.into_iter();
        joined
            .map(|t| t.join().expect("a thread panicked"))
            .collect()
    });
    let mut failed = false;
    for i in 0..plan.targets.len() {
        let times = || seen.iter().flat_map(|s| &s[i].0);
        let errors: usize = seen.iter().map(|s| s[i].1).sum();
        failed |= times().next().is_none();
        println!(
            "{}",
            serde_json::json!({
                "answers": times().count(), "errors": errors,
                "from_start_us": percentiles(times().map(|t| t.start).collect()),
                "from_request_us": percentiles(times().map(|t| t.request).collect()),
            })
        );
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
