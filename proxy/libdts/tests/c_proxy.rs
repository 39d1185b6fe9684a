//! The C library as a C programmer meets it: installed, found by pkg-config,
//! compiled with warnings as errors, and run against a daemon that only speaks
//! the RPC.

use dts_proto::rpc::{Answer, Connection, Done, FailCode, RecvError, Replay, Request, Server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Installs under `dest` as a package would, and compiles `source` against it.
fn install_and_compile(dest: &Path, source: &Path, pkg_config: &[&str]) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Cargo builds the libraries beside the test that needs them.
    let exe = std::env::current_exe().unwrap();
    output(
        Command::new(here.join("install.sh"))
            .env("BUILD_DIR", exe.parent().unwrap())
            .env("DESTDIR", dest)
            .env("PREFIX", "/usr"),
    );
    let flags = output(
        Command::new("pkg-config")
            .args(["--cflags", "--libs", "dts"])
            .args(pkg_config)
            .env("PKG_CONFIG_LIBDIR", dest.join("usr/lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", dest),
    );
    let binary = dest.join("program");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-o")
        .arg(&binary)
        .arg(source)
        .args(flags.split_whitespace());
    if pkg_config.contains(&"--static") {
        std::fs::remove_file(dest.join("usr/lib/libdts.so")).unwrap();
    }
    output(&mut cc);
    binary
}

fn connect(host: &str, port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect((host, port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The next request, or a failed test: a program that is wrong may never ask.
fn recv(daemon: &mut Connection) -> (Request, Option<OwnedFd>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match daemon.recv() {
            Ok(asked) => return asked,
            Err(RecvError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Port 0 is no choice for a program that does not tell what it got.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn proxy_is_served(pkg_config: &[&str], host: &str) {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/proxy.c");
    let binary = install_and_compile(dir.path(), &source, pkg_config);
    let rpc = dir.path().join("rpc.sock");
    let server = Server::bind(&rpc, 0o600).unwrap();
    let port = free_port();
    let _proxy = Reaped(
        Command::new(binary)
            .args([&port.to_string(), "10.77.1.1:80", "[fd77:0:0:1::2]:80"])
            .env("LD_LIBRARY_PATH", dir.path().join("usr/lib"))
            .env("DTS_RPC_SOCKET", &rpc)
            .spawn()
            .unwrap(),
    );

    let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = connect(host, port);
    // In two segments as a rule; the proxy must put them together.
    client.write_all(&head[..9]).unwrap();
    thread::sleep(Duration::from_millis(20));
    client.write_all(&head[9..]).unwrap();

    let mut daemon = server.accept().unwrap();
    daemon.set_nonblocking(true).unwrap();
    let mut ask = |answer: Option<Answer>| {
        let (request, fd) = recv(&mut daemon);
        let Request::Handover { dest, request, .. } = request else {
            panic!("another question");
        };
        assert_eq!(request, head);
        if let Some(answer) = answer {
            daemon.send(&answer).unwrap();
        }
        (dest, fd.unwrap())
    };
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let refused = Answer::Failed {
        code: FailCode::Refused,
        reason: "test".into(),
    };
    assert_eq!(ask(Some(refused)).0, address("10.77.1.1:80"));
    let (dest, fd) = ask(None);
    assert_eq!(dest, address("[fd77:0:0:1::2]:80"));
    // The descriptor is the client's connection: answer through it.
    TcpStream::from(fd).write_all(b"moved").unwrap();
    let done = Done {
        node: 2,
        replay: Replay::FastOpen,
        micros: 1,
    };
    daemon.send(&Answer::Done(done)).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "moved");
}

#[test]
fn c_proxy_against_the_shared_library() {
    proxy_is_served(&[], "127.0.0.1");
}

#[test]
fn c_proxy_against_the_static_library() {
    proxy_is_served(&["--static"], "::1");
}

#[test]
fn errno_of_bad_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errno.c");
    let binary = install_and_compile(dir.path(), &source, &[]);
    output(
        Command::new(binary)
            .env("LD_LIBRARY_PATH", dir.path().join("usr/lib"))
            .env("DTS_RPC_SOCKET", dir.path().join("nobody.sock")),
    );
}
