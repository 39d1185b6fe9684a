//! The kernel's side of the twins, in network namespaces of the test's own.
//! Needs root, or `unshare -Ur`.

use dts_config::Config;
use dtsd::twins;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const CONFIG: &str = r#"
node: 1
cluster:
  name: test
  key: "000102030405060708090a0b0c0d0e0f"
  mac: "02:00:5e:00:00:64"
  members: [ { id: 1, name: node1, link: 10.77.1.1 } ]
services:
  - { name: web, vip: 10.77.0.100, port: 80, proxy_port: 8001, application_port: 8080 }
  - { name: more, vip: 10.77.0.100, port: 81, proxy_port: 8002, application_port: 8081 }
ports:
  wire:
    device: "net_null0"
    mtu: 1400
    host: { device: "net_null1", interface: dtsw, addresses: [10.77.0.1/24] }
  link:
    device: "net_null2"
    host: { device: "net_null3", interface: dtsl, addresses: [10.77.1.1/24] }
workers: { cores: [0] }
"#;

/// The address of the wire's NIC, and the link-local address that is made of it.
const NIC: [u8; 6] = [0x02, 0x77, 0, 0, 0, 1];
const LINK_LOCAL: &str = "fe80::77:ff:fe00:1";

/// A service with an IPv6 VIP beside the others, and IPv6 addresses on both twins.
const DUAL: [(&str, &str); 3] = [
    (
        "services:\n",
        "services:\n  - { name: six, vip: \"fd77::100\", port: 80, proxy_port: 8001, application_port: 8080 }\n",
    ),
    ("[10.77.0.1/24]", "[10.77.0.1/24, \"fd77::1/64\"]"),
    ("[10.77.1.1/24]", "[10.77.1.1/24, \"fd77:0:0:1::1/64\"]"),
];

fn config(changes: &[(&str, &str)]) -> Config {
    let mut text = CONFIG.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from));
        text = text.replace(from, to);
    }
    dts_config::parse(&text, "test.yaml").unwrap()
}

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &str) -> String {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(out.status.success(), "ip {arguments}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn sysctl(name: &str) -> String {
    // The process's first thread is in another namespace than this one.
    std::fs::read_to_string(format!("/proc/sys/net/{name}"))
        .unwrap()
        .trim()
        .to_owned()
}

/// Runs `body` in a thread with a network namespace of its own.
fn in_namespace<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root, or unshare -Ur");
        body()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A client whose addresses nobody can resolve: it answers no ARP and no neighbour
/// solicitation. It has the address to which the kernel sends what the data plane will
/// address.
fn client(thread_id: &Sender<i32>, wired: &Receiver<()>, vip: IpAddr) -> [bool; 3] {
    thread_id.send(gettid().as_raw()).unwrap();
    wired.recv().unwrap();
    ip("link set cl address 02:00:00:00:00:01");
    ip("link set cl arp off");
    ip("addr add 10.77.0.9/24 dev cl");
    ip("addr add fd77::9/64 dev cl nodad");
    ip("link set cl up");
    for vip in ["10.77.0.100", "fd77::100"] {
        let entry = format!("neigh add {vip} lladdr 02:00:5e:00:00:64 nud permanent dev cl");
        ip(&entry);
    }
    thread_id.send(0).unwrap();
    wired.recv().unwrap();
    let reaches = |port: u16| {
        // Without the rule the first question for the client alone takes a second.
        let patience = Duration::from_millis(900);
        TcpStream::connect_timeout(&SocketAddr::new(vip, port), patience).is_ok()
    };
    [8001, 8080, 9999].map(reaches)
}

fn reached_without_being_asked(vip: IpAddr) -> [bool; 3] {
    let server = in_namespace(move || {
        let ((to_server, thread_id), (wired, to_client)) = (channel(), channel());
        let client = in_namespace(move || client(&to_server, &to_client, vip));
        let peer: i32 = thread_id.recv().unwrap();
        ip("link set lo up");
        ip(&format!(
            "link add dtsw type veth peer name cl netns {peer}"
        ));
        ip("link add dtsl type veth peer name peerl");
        let runtime = runtime();
        let twins = runtime
            .block_on(twins::set_up(&config(&DUAL), NIC))
            .unwrap();
        let listen = |port: u16| TcpListener::bind(("::", port)).unwrap();
        let _listeners = [8001, 8080, 9999].map(listen);
        wired.send(()).unwrap();
        // The cable drops what is sent while its carrier comes up, which would
        // look like an answer that waits.
        assert_eq!(thread_id.recv().unwrap(), 0);
        while !ip("-br link show dtsw").contains(" UP ") {
            thread::sleep(Duration::from_millis(5));
        }
        wired.send(()).unwrap();
        let reached = client.join().unwrap();
        runtime.block_on(twins.tear_down());
        reached
    });
    server.join().unwrap()
}

// The last port is no service's: the kernel asks for the client first.

#[test]
fn answers_of_services_do_not_wait_for_arp() {
    let vip = IpAddr::from([10, 77, 0, 100]);
    assert_eq!(reached_without_being_asked(vip), [true, true, false]);
}

#[test]
fn answers_of_services_do_not_wait_for_neighbour_discovery() {
    let vip = "fd77::100".parse().unwrap();
    assert_eq!(reached_without_being_asked(vip), [true, true, false]);
}

#[test]
fn what_is_set_up_and_taken_back() {
    let body = || {
        ip("link add dtsw type veth peer name peerw");
        ip("link add dtsl type veth peer name peerl");
        let link_mac = ip("-br link show dtsl");
        ip("rule add from 10.9.9.9 lookup 7700 priority 99");
        let runtime = runtime();
        // Twice: as after a daemon that was killed.
        let _killed = runtime.block_on(twins::set_up(&config(&[]), NIC)).unwrap();
        let twins = runtime.block_on(twins::set_up(&config(&[]), NIC)).unwrap();

        let wire = ip("addr show dev dtsw");
        assert!(
            wire.contains("mtu 1400") && wire.contains("link/ether 02:00:5e:00:00:64"),
            "{wire}"
        );
        assert!(wire.contains(",UP"), "{wire}");
        let addresses: Vec<&str> = wire
            .lines()
            .filter_map(|l| l.trim().strip_prefix("inet ")?.split(' ').next())
            .collect();
        assert_eq!(addresses, ["10.77.0.1/24", "10.77.0.100/32"]);
        assert!(!wire.contains("inet6"), "{wire}");
        let link = ip("-4 -br addr show dev dtsl");
        assert!(link.contains(" 10.77.1.1/24"), "{link}");
        let mac = |l: &str| l.split_whitespace().nth(2).unwrap().to_owned();
        assert_eq!(mac(&ip("-br link show dtsl")), mac(&link_mac));
        // Towards the wire the node speaks as itself.
        assert!(ip("route get 10.77.0.9").contains("src 10.77.0.1 "));

        for interface in ["dtsw", "dtsl"] {
            assert_eq!(sysctl(&format!("ipv4/conf/{interface}/rp_filter")), "0");
            assert_eq!(sysctl(&format!("ipv4/conf/{interface}/arp_ignore")), "1");
            assert_eq!(sysctl(&format!("ipv4/conf/{interface}/arp_announce")), "2");
        }
        assert_eq!(sysctl("ipv4/conf/all/rp_filter"), "0");

        let rules = ip("rule show priority 7700");
        for port in [8001, 8002, 8080, 8081] {
            let rule = format!("from 10.77.0.100 ipproto tcp sport {port} lookup 7700");
            assert_eq!(rules.matches(&rule).count(), 1, "{rules}");
        }
        assert_eq!(rules.lines().count(), 4, "{rules}");
        let route = ip("route show table 7700");
        assert!(
            route.starts_with("default via 169.254.77.1 dev dtsw"),
            "{route}"
        );
        assert!(route.contains("onlink"), "{route}");
        let neighbour = ip("neigh show 169.254.77.1");
        assert!(
            neighbour.contains("lladdr 02:00:00:00:00:01 PERMANENT"),
            "{neighbour}"
        );

        runtime.block_on(twins.tear_down());
        assert_eq!(ip("rule show priority 7700"), "");
        assert_eq!(ip("-6 rule show priority 7700"), "");
        assert!(
            ip("rule show priority 99").contains("from 10.9.9.9"),
            "another's rule is gone"
        );
    };
    in_namespace(body).join().unwrap();
}

#[test]
fn ipv6_is_set_up_and_taken_back() {
    let body = || {
        ip("link add dtsw type veth peer name peerw");
        ip("link add dtsl type veth peer name peerl");
        // As the kernel makes them by itself, and as another program may have.
        for interface in ["peerw", "dtsw", "peerl", "dtsl"] {
            ip(&format!("link set {interface} up"));
        }
        ip("addr add fd77::dead/64 dev dtsw");
        let runtime = runtime();
        let dual = config(&DUAL);
        // Twice: as after a daemon that was killed.
        let _killed = runtime.block_on(twins::set_up(&dual, NIC)).unwrap();
        let twins = runtime.block_on(twins::set_up(&dual, NIC)).unwrap();

        let addresses = |device: &str| {
            let said = ip(&format!("-6 -o addr show dev {device}"));
            let mut found: Vec<String> = said
                .lines()
                .map(|l| {
                    let words: Vec<&str> = l.split_whitespace().collect();
                    let has = |word| words.contains(&word);
                    // The link-local address that the kernel makes itself takes a moment.
                    let kernels = device == "dtsl" && words[3].starts_with("fe80::");
                    assert!(kernels || !has("tentative"), "{l}");
                    assert!(!has("dadfailed"), "{l}");
                    let deprecated = if has("deprecated") { " deprecated" } else { "" };
                    format!("{}{deprecated}", words[3])
                })
                .collect();
            found.sort();
            found
        };
        let link_local = format!("{LINK_LOCAL}/64");
        assert_eq!(
            addresses("dtsw"),
            [
                "fd77::1/64",
                "fd77::100/128 deprecated",
                link_local.as_str()
            ]
        );
        let link = addresses("dtsl");
        assert_eq!(link.len(), 2, "{link:?}");
        assert_eq!(link[0], "fd77:0:0:1::1/64");
        assert!(link[1].starts_with("fe80::"), "{link:?}");
        // The VIP has more bits in common with this one than the node's address.
        let route = ip("-6 route get fd77::101");
        assert!(route.contains("src fd77::1 "), "{route}");

        for interface in ["dtsw", "dtsl"] {
            for name in [
                "accept_ra",
                "autoconf",
                "router_solicitations",
                "accept_dad",
            ] {
                let value = sysctl(&format!("ipv6/conf/{interface}/{name}"));
                assert_eq!(value, "0", "{interface} {name}");
            }
        }
        let rules = ip("-6 rule show priority 7700");
        for port in [8001, 8080] {
            let rule = format!("from fd77::100 ipproto tcp sport {port} lookup 7700");
            assert_eq!(rules.matches(&rule).count(), 1, "{rules}");
        }
        assert_eq!(rules.lines().count(), 2, "{rules}");
        let route = ip("-6 route show table 7700");
        assert!(
            route.starts_with("default via fe80::77:1 dev dtsw"),
            "{route}"
        );
        let neighbour = ip("neigh show fe80::77:1");
        assert!(
            neighbour.contains("lladdr 02:00:00:00:00:01 PERMANENT"),
            "{neighbour}"
        );
        let answer = ip("-6 route get fd77::9 from fd77::100 ipproto tcp sport 80 dport 5");
        assert!(!answer.contains("fe80::77:1"), "{answer}");
        let answer = ip("-6 route get fd77::9 from fd77::100 ipproto tcp sport 8001 dport 5");
        assert!(answer.contains("via fe80::77:1"), "{answer}");

        runtime.block_on(twins.tear_down());
        assert_eq!(ip("-6 rule show priority 7700"), "");

        // Without IPv6 in the configuration nothing of it is left.
        let none = runtime.block_on(twins::set_up(&config(&[]), NIC)).unwrap();
        assert_eq!(ip("-6 addr show dev dtsw"), "");
        assert_eq!(ip("-6 addr show dev dtsl"), "");
        runtime.block_on(none.tear_down());
    };
    in_namespace(body).join().unwrap();
}

#[test]
fn what_the_kernel_refuses_is_blamed_on_its_key() {
    let body = || {
        let set_up = |c: &Config| runtime().block_on(twins::set_up(c, NIC));
        let missing = set_up(&config(&[])).unwrap_err();
        assert_eq!(missing.path, "ports.wire.host.interface");
        assert!(missing.reason.contains("dtsw"), "{missing}");
        ip("link add dtsw type veth peer name peerw");
        let missing = set_up(&config(&[])).unwrap_err();
        assert_eq!(missing.path, "ports.link.host.interface");
        // No interface named: nothing to do.
        let none = config(&[("interface: dtsw, ", ""), ("interface: dtsl, ", "")]);
        set_up(&none).unwrap();
        assert_eq!(ip("rule show priority 7700"), "");
    };
    in_namespace(body).join().unwrap();
}
