//! Makes pairs of connections, one to the service and one to a server directly, from
//! the same client port and at the same time, so that both meet the same relay, the
//! same load and the same random sequence. Run in the client's namespace; prints one
//! JSON line ([`Asked`]) per connection. Arguments are KEY=VALUE, see [`Plan`].

use dts_tests::client::pattern;
use dts_tests::stacks::http::{Head, hex};
use dts_tests::stacks::{Asked, Way};
use nix::sys::socket::{setsockopt, sockopt};
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Multipath,
    FastOpen,
}

/// What to do.
#[derive(Clone, Debug)]
struct Plan {
    /// `service` and `direct`: addresses and ports.
    service: SocketAddr,
    direct: SocketAddr,
    /// `first`: the first pair's client port; the next pair has the next one.
    first: u16,
    /// `pairs`: how many.
    pairs: usize,
    /// `parallel`: connections at once.
    parallel: usize,
    /// `kind`: `tcp`, `mptcp` or `tfo`.
    kind: Kind,
    /// `up` and `down`: bytes of the request's and of the answer's body.
    up: usize,
    down: usize,
    /// `timeout_s`: of every silence, seconds.
    timeout: Duration,
}

impl Plan {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut plan = Self {
            service: nowhere,
            direct: nowhere,
            first: 10_000,
            pairs: 1,
            parallel: 2,
            kind: Kind::Plain,
            up: 0,
            down: 0,
            timeout: Duration::from_secs(30),
        };
        for argument in arguments {
            let (key, value) = argument
                .split_once('=')
                .ok_or_else(|| format!("{argument}: not KEY=VALUE"))?;
            let bad = |e: &dyn std::fmt::Display| format!("{argument}: {e}");
            let number = || value.parse::<usize>().map_err(|e| bad(&e));
            match key {
                "service" => plan.service = value.parse().map_err(|e| bad(&e))?,
                "direct" => plan.direct = value.parse().map_err(|e| bad(&e))?,
                "first" => plan.first = value.parse().map_err(|e| bad(&e))?,
                "pairs" => plan.pairs = number()?,
                "parallel" => plan.parallel = number()?,
                "up" => plan.up = number()?,
                "down" => plan.down = number()?,
                "timeout_s" => plan.timeout = Duration::from_secs(number()? as u64),
                "kind" => {
                    plan.kind = match value {
                        "tcp" => Kind::Plain,
                        "mptcp" => Kind::Multipath,
                        "tfo" => Kind::FastOpen,
                        _ => return Err(bad(&"not tcp, mptcp or tfo")),
                    }
                }
                _ => return Err(format!("{key}: unknown key")),
            }
        }
        Ok(plan)
    }

    fn open(&self, to: SocketAddr, port: u16) -> io::Result<TcpStream> {
        let protocol = match self.kind {
            Kind::Multipath => Protocol::MPTCP,
            Kind::Plain | Kind::FastOpen => Protocol::TCP,
        };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
        // Two connections share the port.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        if self.kind == Kind::FastOpen {
            // connect() then waits for the first write.
            setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
            socket.connect(&to.into())?;
        } else {
            socket.connect_timeout(&to.into(), self.timeout)?;
        }
        let stream: TcpStream = socket.into();
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }

    fn talk(&self, data: &Data, asked: &mut Asked) -> io::Result<()> {
        let start = Instant::now();
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let to = match asked.way {
            Way::Service => self.service,
            Way::Direct => self.direct,
        };
        let mut stream = self.open(to, asked.port)?;
        asked.connect_ms = ms(start);
        let sent = Instant::now();
        stream.write_all(&data.request)?;
        let mut buffer = vec![0; 65_536];
        let (head, rest) = Head::read(&mut stream, &mut buffer)?;
        asked.first_byte_ms = ms(sent);
        asked.status = head.status;
        asked.node = head.field("x-node").into();
        let (mut hash, mut got) = (Sha256::new(), rest.len());
        hash.update(&rest);
        while got < head.content_length {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                let text = format!("end of file after {got} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            got += n;
            hash.update(&buffer[..n]);
        }
        asked.total_ms = ms(start);
        if got != self.down {
            return Err(io::Error::other(format!("{got} bytes of answer")));
        }
        asked.up_equal = head.field("x-body-sha256") == data.up_digest;
        asked.down_equal = hex(&hash.finalize()) == data.down_digest;
        if self.kind != Kind::Multipath {
            asked.srtt_us = hostsock::tcp_info(&stream)?.rtt_us;
        }
        Ok(())
    }
}

/// What every connection sends, and what it must get.
struct Data {
    request: Vec<u8>,
    up_digest: String,
    down_digest: String,
}

fn main() -> ExitCode {
    let plan = match Plan::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("pairclient: {error}");
            return ExitCode::from(2);
        }
    };
    let body = pattern(plan.up);
    let mut request = format!(
        "POST /b/pair HTTP/1.1\r\nHost: lab\r\nX-Down: {}\r\nContent-Length: {}\r\n\r\n",
        plan.down, plan.up
    )
    .into_bytes();
    request.extend_from_slice(&body);
    let data = Data {
        request,
        up_digest: hex(&Sha256::digest(&body)),
        down_digest: hex(&Sha256::digest(pattern(plan.down))),
    };
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut mine = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.pairs * 2 {
                return mine;
            }
            // Who of a pair goes first alternates.
            let (pair, second) = (number / 2, number % 2);
            let mut asked = Asked {
                way: if (pair + second) % 2 == 0 {
                    Way::Service
                } else {
                    Way::Direct
                },
                port: plan.first.wrapping_add(pair as u16),
                ..Asked::default()
            };
            if let Err(error) = plan.talk(&data, &mut asked) {
                asked.error = error.to_string();
            }
            mine.push(asked);
        }
    };
    let results: Vec<Asked> = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.parallel).map(|_| scope.spawn(worker)).collect();
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
