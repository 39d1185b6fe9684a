//! Connections, from accept to close.

use crate::config::{Config, Unavailable};
use crate::gate::Gate;
use crate::handover::{Daemon, Failed};
use crate::policy::Request;
use crate::rules::{self, Route};
use crate::{BadHead, Scanner};
use dts_proto::rpc::FailCode;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Handovers at once, each with a thread and a connection to the daemon. More
/// than are needed for throughput, because one whose destination has died
/// occupies its place until the daemon's deadline.
const HANDOVERS: usize = 128;

/// Read at most this much at once: what has arrived behind the head is better
/// left to the daemon.
const CHUNK: usize = 4096;

/// How long handovers that are under way may still take after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// What a client gets whom no member takes, where its pool says so.
const ANSWER_503: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n";
/// How long a client may go on sending after it was answered so.
const LINGER: Duration = Duration::from_secs(1);

/// What became of the connections so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Accepted.
    pub accepted: AtomicU64,
    /// Moved to a destination.
    pub moved: AtomicU64,
    /// Closed by the client, or failed, before the head was complete.
    pub gone: AtomicU64,
    /// Head not complete within `limits.head_timeout_ms`.
    pub slow: AtomicU64,
    /// Head invalid or too large.
    pub bad: AtomicU64,
    /// Outcome unknown.
    pub unknown: AtomicU64,
    /// No member was healthy or had room.
    pub unavailable: AtomicU64,
    /// Not moved for any other reason.
    pub failed: AtomicU64,
    /// Those that wait for room now.
    pub waiting: AtomicU64,
    /// Those that have a member, and whose handover has not ended.
    pub under_way: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Listens on the configured address; on `[::]` for both families, whatever the
/// kernel's default is.
///
/// # Errors
/// What the kernel says.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Shared {
    config: Arc<Config>,
    gate: Arc<Gate>,
    daemon: Arc<Daemon>,
    handovers: Semaphore,
    counters: Arc<Counters>,
    random: RandomState,
}

/// Serves until `stop` becomes true, then waits for the handovers under way.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    counters: Arc<Counters>,
    mut stop: watch::Receiver<bool>,
) {
    let limit = config.limits.connections;
    let config = Arc::new(config);
    let gate = Arc::new(Gate::new(Arc::clone(&config), Arc::clone(&counters)));
    let daemon = Arc::new(Daemon::new(config.rpc_socket.clone()));
    let listening = listen_to_nodes(
        &config,
        Arc::clone(&daemon),
        Arc::clone(&gate),
        stop.clone(),
    );
    let listening = tokio::spawn(listening);
    let places = Arc::new(Semaphore::new(limit as usize));
    let shared = Arc::new(Shared {
        daemon,
        gate,
        handovers: Semaphore::new(HANDOVERS),
        random: RandomState::new(),
        counters,
        config,
    });
    loop {
        // A place first: what cannot be served yet waits in the backlog.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let number = shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                let stop = stop.clone();
                // IPv4 as IPv4, also where the listener is of IPv6.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                tokio::spawn(async move {
                    connection(&shared, stream, peer, number, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // The client gave up, or descriptors ran out: then a pause, or
                // this loop would spin until some are back.
                tracing::warn!(%error, "accept");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if timeout(GRACE, places.acquire_many(limit)).await.is_err() {
        tracing::warn!("handovers still under way at the end");
    }
    // It ends with the stop; it panicked if this fails, and has said so.
    let _ = listening.await;
}

/// Asks the daemon about nodes now and then, until the end.
fn listen_to_nodes(
    config: &Config,
    daemon: Arc<Daemon>,
    gate: Arc<Gate>,
    mut stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let mut ticks = interval(config.nodes.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    async move {
        let mut deaf = false;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => {}
            }
            let asked = Arc::clone(&daemon);
            match tokio::task::spawn_blocking(move || asked.nodes()).await {
                Ok(Ok(nodes)) => {
                    deaf = false;
                    gate.tell(nodes);
                }
                Ok(Err(error)) if !deaf => {
                    deaf = true;
                    tracing::warn!(%error, "nothing is known of the nodes");
                }
                Ok(Err(_)) => {}
                Err(error) => tracing::error!(%error, "asking about nodes"),
            }
        }
    }
}

async fn connection(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    number: u64,
    mut stop: watch::Receiver<bool>,
) {
    let counters = &shared.counters;
    let limits = &shared.config.limits;
    let draw = shared.random.hash_one(number);
    let head = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        head = timeout(limits.head_timeout, read_head(shared, &stream, peer.ip())) => head,
    };
    let Read {
        bytes,
        route,
        request,
    } = match head {
        Ok(Ok(head)) => head,
        Ok(Err(HeadError::Io(error))) => {
            count(&counters.gone);
            tracing::debug!(%peer, %error, "closed before its request was complete");
            return;
        }
        Ok(Err(HeadError::Bad(error))) => {
            count(&counters.bad);
            tracing::debug!(%peer, %error, "bad request");
            return;
        }
        Err(_) => {
            count(&counters.slow);
            tracing::debug!(%peer, "request not complete in time");
            return;
        }
    };
    let member = match shared.gate.enter(route, &request, draw).await {
        Ok(member) => member,
        Err(error) => {
            count(&counters.unavailable);
            tracing::info!(%peer, %error, "not moved");
            return send_away(shared, route, stream).await;
        }
    };
    let Ok(permit) = shared.handovers.acquire().await else {
        return;
    };
    // Out of this process's epoll set before its descriptor travels.
    let Ok(socket) = stream.into_std() else {
        return count(&counters.failed);
    };
    let asking = Arc::clone(shared);
    let asked = tokio::task::spawn_blocking(move || {
        let next = |tried: &[SocketAddr]| asking.gate.again(route, &request, tried, draw);
        let result = asking.daemon.handover(socket.as_fd(), member, next, &bytes);
        // Where it was moved, or may have been, nothing is ever written: it is closed by
        // being dropped, and the daemon ends it.
        let ours = match &result {
            Ok(_) => false,
            Err(failed) => failed.error.code() != Some(FailCode::Unknown),
        };
        (result, ours.then_some(socket))
    });
    let asked = asked.await;
    drop(permit);
    let (result, left) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            count(&counters.failed);
            return tracing::error!(%peer, %error, "handover");
        }
    };
    match result {
        Ok((dest, done)) => {
            count(&counters.moved);
            tracing::debug!(%peer, %dest, node = done.node, replay = %done.replay,
                micros = done.micros, "moved");
        }
        Err(Failed { tried, error }) => {
            if error.code() == Some(FailCode::Unknown) {
                count(&counters.unknown);
            } else {
                count(&counters.failed);
            }
            tracing::info!(%peer, tried, %error, "not moved");
        }
    }
    if let Some(Ok(stream)) = left.map(TcpStream::from_std) {
        send_away(shared, route, stream).await;
    }
}

/// Ends a connection that nobody takes, as its pool says. A client that is gone already
/// needs no answer.
async fn send_away(shared: &Shared, route: Route, mut stream: TcpStream) {
    match shared.config.pools[route.pool].unavailable {
        Unavailable::Close => {}
        Unavailable::Reset => {
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "no reset");
            }
        }
        Unavailable::Answer503 => {
            let answer = async {
                stream.write_all(ANSWER_503).await?;
                stream.shutdown().await?;
                // What is unread when a socket is closed makes it send a RST, which may
                // reach the client before it has read the answer (RFC 9112, section 9.6).
                let mut rest = [0; CHUNK];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            // After its time it is closed in any case.
            if let Ok(Err(error)) = timeout(LINGER, answer).await {
                tracing::debug!(%error, "answering 503");
            }
        }
    }
}

/// A complete head.
struct Read {
    /// All bytes read.
    bytes: Vec<u8>,
    route: Route,
    request: Request,
}

enum HeadError {
    Io(io::Error),
    Bad(BadHead),
}

/// Reads until the head is complete.
async fn read_head(shared: &Shared, stream: &TcpStream, source: IpAddr) -> Result<Read, HeadError> {
    let config = &*shared.config;
    let mut scanner = Scanner::new(config.protocol);
    let mut buffer = Vec::new();
    loop {
        let len = buffer.len();
        let room = CHUNK.min(config.limits.head_bytes - len);
        if room == 0 {
            return Err(HeadError::Bad(BadHead::TooLarge));
        }
        stream.readable().await.map_err(HeadError::Io)?;
        buffer.resize(len + room, 0);
        let got = match stream.try_read(&mut buffer[len..]) {
            Ok(0) => return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(HeadError::Io(error)),
        };
        buffer.truncate(len + got);
        if scanner.advance(&buffer).map_err(HeadError::Bad)? {
            let head = scanner.head(&buffer).map_err(HeadError::Bad)?;
            let route = rules::route(config, &head);
            let request = rules::request(&config.policies[route.policy], &head, source);
            return Ok(Read {
                bytes: buffer,
                route,
                request,
            });
        }
    }
}
