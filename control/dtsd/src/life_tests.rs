//! Real sockets in a network namespace of the test's own. Needs root, or
//! `unshare -Ur`.

use super::*;
use crate::testkit::{config, until};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command as Program;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

fn view() -> View {
    let mut config = config();
    config.services[0].application_port = 8080;
    let mut six = config.services[0].clone();
    (six.name, six.vip) = ("six".into(), "fd77::100".parse().unwrap());
    config.services.push(six);
    let boot = crate::snapshot::Boot {
        incarnation: 1,
        steer_key: [0; 16],
    };
    crate::snapshot::build(&config, boot, [2; 6], [4; 6])
}

/// Runs `test` in a thread with a network of its own, where the VIPs are.
fn in_a_namespace(test: fn()) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        for arguments in [
            "link set lo up",
            "addr add 10.77.0.100/32 dev lo",
            "addr add fd77::100/128 dev lo nodad",
        ] {
            let out = Program::new("ip").args(arguments.split(' ')).output();
            let out = out.expect("ip");
            assert!(out.status.success(), "ip {arguments}: {out:?}");
        }
        // The kernel adds the address's route a little later.
        until(|| {
            let socket = UdpSocket::bind("[::]:0").expect("any port");
            socket.connect("[fd77::100]:1").is_ok()
        });
        test();
    };
    thread::spawn(body).join().expect("the test's own thread");
}

/// Client and server ends of a connection to `to`.
fn connect(to: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(to).expect(to);
    let client = TcpStream::connect(to).expect(to);
    let (server, _) = listener.accept().expect(to);
    (client, server)
}

/// What a look finds, by the client's address.
fn clients() -> BTreeSet<SocketAddr> {
    look(&view())
        .expect("sock_diag")
        .into_iter()
        .map(|p| p.1)
        .collect()
}

#[test]
fn a_look_finds_the_sockets_of_both_families_and_no_others() {
    in_a_namespace(|| {
        let here = ["10.77.0.100:8080", "10.77.0.100:8001", "[fd77::100]:8080"].map(connect);
        // Another port, another address, a listener.
        let _elsewhere = ["10.77.0.100:9999", "127.0.0.1:8080"].map(connect);
        let _listener = TcpListener::bind("10.77.0.100:8080").unwrap();
        let want: BTreeSet<_> = here.iter().map(|(c, _)| c.local_addr().unwrap()).collect();
        assert_eq!(clients(), want);
        for (local, remote) in look(&view()).unwrap() {
            let (_, server) = here
                .iter()
                .find(|(c, _)| c.local_addr().unwrap() == remote)
                .expect("one of ours");
            assert_eq!(local, server.local_addr().unwrap());
        }
    });
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_found_as_what_it_is() {
    in_a_namespace(|| {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        let client = TcpStream::connect("10.77.0.100:8080").unwrap();
        let _server = listener.accept().unwrap();
        assert_eq!(clients(), BTreeSet::from([client.local_addr().unwrap()]));
    });
}

#[test]
fn a_socket_is_found_as_long_as_the_stack_has_it() {
    in_a_namespace(|| {
        let (mut client, server) = connect("10.77.0.100:8080");
        let address = BTreeSet::from([client.local_addr().unwrap()]);
        // Unread data; then closed by its program, while the client goes on.
        client.write_all(b"x").unwrap();
        assert_eq!(clients(), address);
        let mut buffer = [0];
        (&server).read_exact(&mut buffer).unwrap();
        drop(server);
        assert_eq!(clients(), address, "the client has not closed");
        // Gone without a word, as a buried one is.
        let (_client, server) = connect("10.77.0.100:8001");
        assert_eq!(clients().len(), 2);
        hostsock::silent_close(&server).unwrap();
        assert_eq!(clients(), address);
    });
}

#[test]
fn what_connects_and_is_not_accepted_is_found() {
    in_a_namespace(|| {
        let _listener = TcpListener::bind("10.77.0.100:8080").unwrap();
        let client = TcpStream::connect("10.77.0.100:8080").unwrap();
        assert_eq!(clients(), BTreeSet::from([client.local_addr().unwrap()]));
    });
}

/// Two workers; the second one's queue is full.
#[derive(Default)]
struct Workers(Mutex<Vec<Arc<SocketSet>>>);

impl Plane for Workers {
    fn workers(&self) -> usize {
        2
    }
    fn worker_of(&self, _: SocketAddr) -> usize {
        0
    }
    fn command(&self, worker: usize, command: Command) -> Result<(), Command> {
        match command {
            Command::Sockets { set } if worker == 0 => self.0.lock().unwrap().push(set),
            other => return Err(other),
        }
        Ok(())
    }
}

#[test]
fn the_thread_looks_at_its_time_and_on_demand_and_ends() {
    let views = Arc::new(ArcSwap::from_pointee(view()));
    let seen = |w: &Workers| w.0.lock().unwrap().len();
    let often = Arc::new(Workers::default());
    let period = Duration::from_millis(5);
    let life = Life::start(period, often.clone(), Arc::clone(&views)).unwrap();
    until(|| seen(&often) >= 3);
    drop(life);
    let count = seen(&often);
    thread::sleep(period * 4);
    assert_eq!(seen(&often), count, "over");
    let never = Arc::new(Workers::default());
    let life = Life::start(Duration::from_secs(3_600), never.clone(), views).unwrap();
    assert_eq!(seen(&never), 0);
    life.look_now();
    until(|| seen(&never) == 1);
    let start = Instant::now();
    drop(life);
    assert!(start.elapsed() < Duration::from_secs(2), "does not wait");
    // No number is used twice: a worker compares each look once.
    let sets = often.0.lock().unwrap();
    let numbers: BTreeSet<_> = sets.iter().map(|s| format!("{s:?}")).collect();
    assert_eq!(numbers.len(), sets.len());
}
