//! A server that tells what its stack knows of each connection, run in a node's
//! namespace in place of nginx. It reads a request with its body, answers with as many
//! bytes as the request asks for by `X-Down` and with the body's SHA-256, waits for the
//! client's close, and writes one JSON line ([`Served`]) to a file.
//!
//! Arguments are KEY=VALUE: `listen` (address and port), `records` (the file), `node`
//! (for `X-Node`), `cc` (congestion control; default: the namespace's), `delay_ms` (how long
//! each answer is thought about; default 0).

use dts_tests::client::pattern;
use dts_tests::stacks::Served;
use dts_tests::stacks::http::{Head, hex};
use nix::sys::socket::{setsockopt, sockopt};
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer, bytes.
const DOWN_MOST: usize = 16 << 20;

struct Server {
    records: Mutex<File>,
    node: String,
    bytes: Vec<u8>,
    delay: Duration,
}

impl Server {
    fn talk(&self, stream: &mut TcpStream, served: &mut Served) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; 65_536];
        let (head, rest) = Head::read(stream, &mut buffer)?;
        let (mut hash, mut left) = (Sha256::new(), head.content_length);
        let mut take = |bytes: &[u8]| {
            hash.update(bytes);
            left = left.checked_sub(bytes.len())?;
            Some(left)
        };
        let too_much = || io::Error::other("bytes behind the body");
        let mut left = take(&rest).ok_or_else(too_much)?;
        while left > 0 {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = take(&buffer[..n]).ok_or_else(too_much)?;
        }
        thread::sleep(self.delay);
        let down = head.number("x-down").unwrap_or(0).min(DOWN_MOST);
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nX-Node: {}\r\nX-Body-Sha256: {}\r\nContent-Length: {down}\r\n\r\n",
            self.node,
            hex(&hash.finalize())
        )
        .into_bytes();
        answer.extend_from_slice(&self.bytes[..down]);
        stream.write_all(&answer)?;
        // The client closes first: then it has everything, and all round trips that it
        // gave are measured.
        match stream.read(&mut buffer)? {
            0 => {}
            n => return Err(io::Error::other(format!("{n} bytes behind the request"))),
        }
        let info = hostsock::tcp_info(&*stream)?;
        served.srtt_us = info.rtt_us;
        served.min_rtt_us = info.min_rtt_us;
        served.total_retrans = info.total_retrans;
        served.timestamps = info.options.timestamps;
        served.sack = info.options.sack;
        served.wscale = info.options.wscale;
        served.ecn = info.options.ecn;
        Ok(())
    }

    fn serve(&self, mut stream: TcpStream) {
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        let mut served = Served {
            port: peer.port(),
            at: local.port(),
            ..Served::default()
        };
        if let Err(error) = self.talk(&mut stream, &mut served) {
            served.error = error.to_string();
        }
        let mut line = serde_json::to_string(&served).unwrap_or_default();
        line.push('\n');
        if let Ok(mut file) = self.records.lock()
            && let Err(error) = file.write_all(line.as_bytes())
        {
            eprintln!("labserver: {error}");
        }
    }
}

fn run() -> Result<(), String> {
    let (mut listen, mut records) = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)), None);
    let (mut node, mut cc) = (String::new(), None);
    let mut delay = Duration::ZERO;
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("not KEY=VALUE")?;
        match key {
            "listen" => listen = value.parse().map_err(|e| format!("{argument}: {e}"))?,
            "records" => records = Some(value.to_owned()),
            "node" => node = value.into(),
            "cc" => cc = Some(value.to_owned()),
            "delay_ms" => {
                let ms = value.parse().map_err(|e| format!("{argument}: {e}"))?;
                delay = Duration::from_millis(ms);
            }
            _ => return Err(format!("{key}: unknown key")),
        }
    }
    let records = records.ok_or("records: missing")?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(&records)
        .map_err(|e| format!("{records}: {e}"))?;
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(listen),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if let Some(cc) = &cc {
            // Accepted sockets inherit the listener's.
            setsockopt(&socket, sockopt::TcpCongestion, &cc.into())?;
        }
        socket.bind(&listen.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    let listener = bind().map_err(|e| format!("{listen}: {e}"))?;
    let server = Arc::new(Server {
        records: Mutex::new(file),
        node,
        bytes: pattern(DOWN_MOST),
        delay,
    });
    for stream in listener.incoming() {
        let stream = stream.map_err(|e| format!("accept: {e}"))?;
        let server = Arc::clone(&server);
        thread::spawn(move || server.serve(stream));
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("labserver: {error}");
            ExitCode::FAILURE
        }
    }
}
