//! Opens connections at a steady pace from the lab's client namespace and tells of each
//! when it was begun and how long its SYN-ACK took. Arguments are KEY=VALUE: `to` (address
//! and port), `seconds`, `gap_us` between two beginnings, `first`, the first one's own port, `timeout` in milliseconds: less than
//! a second, so that no SYN is sent twice.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A connection whose SYN is out.
struct Begun {
    socket: Socket,
    /// Seconds since the epoch.
    time: f64,
    at: Instant,
}

fn number(arguments: &[String], key: &str, default: f64) -> Result<f64, String> {
    let found = arguments.iter().find_map(|a| a.strip_prefix(key));
    found.map_or(Ok(default), |v| {
        v.parse().map_err(|e| format!("{key}{v}: {e}"))
    })
}

fn begin(to: &SockAddr, port: u16) -> io::Result<Begun> {
    let socket = Socket::new(Domain::from(i32::from(to.family())), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Ports are not left to the kernel, which takes one again long before the cluster has
    // forgotten what it was used for.
    let any = if to.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], port))
    } else {
        SocketAddr::from(([0; 16], port))
    };
    socket.set_reuse_address(true)?;
    socket.bind(&any.into())?;
    // No TIME_WAIT: a port that comes again is a new connection.
    socket.set_linger(Some(Duration::ZERO))?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let at = Instant::now();
    match socket.connect(to) {
        Err(e) if e.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(e),
        _ => {}
    }
    Ok(Begun {
        socket,
        time: since.as_secs_f64(),
        at,
    })
}

fn run(arguments: &[String]) -> Result<(), String> {
    let to = arguments.iter().find_map(|a| a.strip_prefix("to="));
    let to: SocketAddr = to
        .ok_or("no to=")?
        .parse()
        .map_err(|e| format!("to: {e}"))?;
    let to = SockAddr::from(to);
    let seconds = Duration::from_secs_f64(number(arguments, "seconds=", 1.0)?);
    let gap = Duration::from_secs_f64(number(arguments, "gap_us=", 5000.0)? / 1e6);
    let timeout = Duration::from_secs_f64(number(arguments, "timeout=", 400.0)? / 1e3);
    let mut port = number(arguments, "first=", 1024.0)? as u16;
    let start = Instant::now();
    let (mut next, mut open) = (start, Vec::<Begun>::new());
    while start.elapsed() < seconds || !open.is_empty() {
        let now = Instant::now();
        if now >= next && start.elapsed() < seconds {
            open.push(begin(&to, port).map_err(|e| format!("socket: {e}"))?);
            port += 1;
            next += gap;
        }
        let mut fds: Vec<PollFd> = open
            .iter()
            .map(|b| PollFd::new(b.socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        poll(&mut fds, PollTimeout::from(1u8)).map_err(|e| format!("poll: {e}"))?;
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        drop(fds);
        let mut ready = ready.into_iter();
        open.retain(|b| {
            let took = b.at.elapsed();
            let (time, ms) = (b.time, took.as_secs_f64() * 1e3);
            match ready.next() {
                Some(true) if b.socket.take_error().is_ok_and(|e| e.is_none()) => {
                    println!("{time:.6} {ms:.3}");
                    false
                }
                Some(true) => {
                    println!("{time:.6} refused");
                    false
                }
                _ if took >= timeout => {
                    println!("{time:.6} silence");
                    false
                }
                _ => true,
            }
        });
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synprobe: {error}");
            ExitCode::FAILURE
        }
    }
}
