//! A server with a small cache before a slow disk, run in a node's namespace in place of
//! nginx: each request takes its turn at the one processor, and what is not in the cache
//! also at the one disk. Both are slept through, so that three such servers fit on a
//! small machine. The cache forgets what was asked for least recently.
//!
//! Arguments are KEY=VALUE: `listen` (address and port), `node` (for `X-Node`), `entries`
//! (of the cache), `hit_us` (that the processor takes), `miss_us` (that the disk takes),
//! `bytes` (of each answer). `GET /stats`
//! gives hits and misses so far as JSON.

use lru::LruCache;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest head of a request, bytes.
const HEAD_MOST: usize = 16_384;

struct Server {
    cache: Mutex<LruCache<String, ()>>,
    /// Held while something is read from the disk.
    disk: Mutex<()>,
    miss: Duration,
    /// Held while a request is worked on.
    processor: Mutex<()>,
    hit: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Of each answer, the part that is always the same.
    head: String,
    body: Vec<u8>,
}

impl Server {
    fn cached(&self, path: &str) -> bool {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(path).is_some()
    }

    /// Gets `path`: whether it was in the cache.
    fn fetch(&self, path: &str) -> bool {
        if self.cached(path) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let turn = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waited behind another one for the same need not read it again.
        if !self.cached(path) {
            thread::sleep(self.miss);
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.put(path.to_owned(), ());
        }
        drop(turn);
        false
    }

    fn answer(&self, path: &str) -> Vec<u8> {
        if path == "/stats" {
            let (hits, misses) = (&self.hits, &self.misses);
            let body = format!(
                "{{\"hits\":{},\"misses\":{}}}",
                hits.load(Ordering::Relaxed),
                misses.load(Ordering::Relaxed)
            );
            let length = body.len();
            return format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into();
        }
        let found = if self.fetch(path) { "hit" } else { "miss" };
        let turn = self.processor.lock();
        thread::sleep(self.hit);
        drop(turn);
        let mut bytes = format!("{}X-Cache: {found}\r\n\r\n", self.head).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// One request, then the client's close.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let path = loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 || bytes.len() > HEAD_MOST {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&buffer[..n]);
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(&bytes).map_err(io::Error::other)?;
            if parsed.is_complete() {
                break request.path.unwrap_or("/").to_owned();
            }
        };
        stream.write_all(&self.answer(&path))?;
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    }
}

fn run() -> Result<(), String> {
    let mut listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80));
    let (mut node, mut entries, mut length) = (String::new(), 100, 1_000);
    let (mut hit_us, mut miss_us) = (0, 5_000);
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("not KEY=VALUE")?;
        let number = || {
            value
                .parse::<usize>()
                .map_err(|e| format!("{argument}: {e}"))
        };
        match key {
            "listen" => listen = value.parse().map_err(|e| format!("{argument}: {e}"))?,
            "node" => node = value.into(),
            "entries" => entries = number()?,
            "hit_us" => hit_us = number()?,
            "miss_us" => miss_us = number()?,
            "bytes" => length = number()?,
            _ => return Err(format!("{key}: unknown key")),
        }
    }
    let entries = NonZeroUsize::new(entries).ok_or("entries: 0")?;
    let server = Arc::new(Server {
        cache: Mutex::new(LruCache::new(entries)),
        disk: Mutex::default(),
        miss: Duration::from_micros(miss_us as u64),
        processor: Mutex::default(),
        hit: Duration::from_micros(hit_us as u64),
        hits: AtomicU64::new(0),
        misses: AtomicU64::new(0),
        head: format!("HTTP/1.1 200 OK\r\nX-Node: {node}\r\nContent-Length: {length}\r\n"),
        body: vec![b'x'; length],
    });
    let bind = || -> io::Result<TcpListener> {
        let domain = Domain::for_address(listen);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    let listener = bind().map_err(|e| format!("{listen}: {e}"))?;
    loop {
        let (stream, _) = listener.accept().map_err(|e| format!("accept: {e}"))?;
        let server = Arc::clone(&server);
        // A client that goes away is no matter.
        let serve = move || drop(server.serve(stream));
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(serve)
            .map_err(|e| format!("thread: {e}"))?;
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cacheserver: {error}");
            ExitCode::from(2)
        }
    }
}
