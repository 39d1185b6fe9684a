//! What cannot start says which key asked for it, and leaves nothing started.
//! The EAL starts once per process, so each case runs in a process of its own.

mod common;

use std::process::Command;

use common::{Files, config};
use dts_config::{Config, MacAddr};
use dts_core::frame::Port;
use dts_worker::start;

const CASE: &str = "DTS_START_CASE";

type Change = fn(&mut Config);

/// Name, what is wrong, and the key and the words of the message.
const CASES: &[(&str, Change, &str, &str)] = &[
    (
        "pages",
        |c| {
            c.memory.hugepages = true;
            c.memory.megabytes = 1 << 20;
        },
        "memory.hugepages",
        "1048576 MiB of hugepages are needed",
    ),
    (
        "core",
        |c| c.workers.cores = vec![1000],
        "workers.cores.0",
        "core 1000 is not among",
    ),
    (
        "nic",
        |c| c.ports.wire.device = "net_pcap0,iface=dts-none".into(),
        "ports.wire.device",
        "dts-none",
    ),
    (
        "twin",
        |c| c.ports.link.host.device = "net_pcap3,rx_pcap=/none/at.all".into(),
        "ports.link.host.device",
        "/none/at.all",
    ),
    (
        "driver",
        |c| c.ports.link.device = "net_nothing0".into(),
        "ports.link.device",
        "net_nothing0",
    ),
    (
        "buffers",
        |c| c.memory.mbufs = 1 << 20,
        "memory.mbufs",
        "memory.megabytes is 64",
    ),
    (
        "jumbo",
        |c| {
            c.ports.link.mtu = 9000;
            c.ports.link.host.device = "net_tap3,iface=dtsjumbo".into();
        },
        "ports.link.mtu",
        "9000 is more than net_tap3 (net_tap) can do: 1504; a twin for larger frames is virtio-user",
    ),
    (
        "address",
        // The address that the first capture device bears.
        |c| c.cluster.mac = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0x00]),
        "ports.wire.device",
        "is cluster.mac",
    ),
];

#[test]
fn every_mistake_has_its_key() {
    if let Ok(case) = std::env::var(CASE) {
        return child(&case);
    }
    for (name, _, path, _) in CASES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_mistake_has_its_key", "--nocapture"])
            .env(CASE, name)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
        assert!(
            text.contains(&format!("case {name}: {path}: ")),
            "{name}: {text}"
        );
    }
}

fn child(case: &str) {
    let (_, change, path, words) = CASES.iter().find(|c| c.0 == case).unwrap();
    let files = Files::new();
    let mut config = config(&Port::ALL.map(|p| files.device(p, &[vec![]])), 1, 1);
    change(&mut config);
    let Err(error) = start::open(&config) else {
        panic!("it started")
    };
    println!("case {case}: {error}");
    assert_eq!(error.path, *path, "{error}");
    assert!(
        error.reason.contains(words) && !error.reason.contains('\n'),
        "{error}"
    );
    // The EAL is down, and it goes down only when every port and pool is gone.
    let after = dpdk::Mempool::new("after", 63, 0, 2048, None);
    assert!(matches!(after, Err(dpdk::Error::NotRunning)), "{after:?}");
    let prefix = format!("dts{}", std::process::id());
    assert!(!std::path::Path::new("/var/run/dpdk").join(prefix).exists());
}
