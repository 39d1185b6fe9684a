//! A machine in a folder, well at first.

use super::super::Verdict;
use super::*;
use crate::testkit::config;
use std::os::unix::fs::symlink;

const WELL: [(&str, &str); 13] = [
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "128\n",
    ),
    ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
    ("proc/sys/net/ipv4/conf/dtsw/rp_filter", "0\n"),
    ("proc/sys/net/ipv4/conf/dtsw/arp_ignore", "1\n"),
    ("proc/sys/net/ipv4/conf/dtsw/arp_announce", "2\n"),
    ("proc/sys/net/ipv4/tcp_timestamps", "1\n"),
    ("proc/sys/net/ipv4/tcp_sack", "1\n"),
    ("proc/sys/net/ipv4/tcp_window_scaling", "1\n"),
    ("proc/sys/net/ipv4/tcp_fastopen", "1539\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("proc/sys/net/ipv6/conf/dtsw/disable_ipv6", "1\n"),
    ("proc/self/status", "CapEff:\t00000000ffffffff\n"),
];

struct Machine {
    root: tempfile::TempDir,
    config: Config,
}

impl Machine {
    fn new() -> Self {
        let mut config = config();
        (config.memory.hugepages, config.memory.megabytes) = (true, 256);
        config.ports.wire.host.interface = Some("dtsw".into());
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
            config,
        };
        for (path, text) in WELL {
            machine.put(path, text);
        }
        machine
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A device, bound to a driver.
    fn pci(&mut self, driver: Option<&str>) {
        self.config.ports.wire.device = "01:00.0,arg=1".into();
        let device = self.root.path().join("sys/bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        let _ = fs::remove_file(device.join("driver"));
        if let Some(driver) = driver {
            symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
        }
    }

    fn troubles(&self) -> Vec<(&'static str, Verdict)> {
        let checks = look(self.root.path(), &self.config);
        let bad = checks.iter().filter(|c| c.verdict >= Verdict::Warning);
        bad.map(|c| {
            assert!(c.todo.is_some(), "{c:?}");
            (c.check, c.verdict)
        })
        .collect()
    }
}

#[test]
fn a_machine_that_is_well_has_no_trouble() {
    assert_eq!(Machine::new().troubles(), []);
    let checks = look(Machine::new().root.path(), &Machine::new().config);
    let devices: Vec<_> = checks.iter().filter(|c| c.check == "driver").collect();
    assert_eq!(devices.len(), 4);
    assert!(devices[0].found.contains("not a PCI device"));
}

#[test]
fn each_setting_is_looked_at() {
    use Verdict::{Fault, Warning};
    for (path, text, name, verdict) in [
        (WELL[0].0, "127\n", "hugepages", Fault),
        (WELL[1].0, "1\n", "twin_settings", Fault),
        (WELL[2].0, "2\n", "twin_settings", Fault),
        (WELL[4].0, "0\n", "twin_settings", Fault),
        (WELL[5].0, "0\n", "tcp_settings", Warning),
        (WELL[8].0, "1\n", "fast_open", Warning),
        (WELL[9].0, "128\n", "backlog", Warning),
        (WELL[11].0, "0\n", "twin_settings", Fault),
        (
            "proc/self/status",
            "CapEff:\t000000000000efff\n",
            "permissions",
            Fault,
        ),
        (
            "proc/self/status",
            "CapEff:\t0000000000001000\n",
            "permissions",
            Warning,
        ),
    ] {
        let machine = Machine::new();
        machine.put(path, text);
        let troubles = machine.troubles();
        assert_eq!(troubles[0], (name, verdict), "{path}: {text}");
    }
    let mut plain = Machine::new();
    plain.config.memory.hugepages = false;
    assert_eq!(plain.troubles(), [("hugepages", Warning)]);
}

#[test]
fn devices_are_judged_by_their_drivers() {
    use Verdict::{Fault, Ok, Warning};
    let mut machine = Machine::new();
    machine.put("sys/kernel/iommu_groups/0/type", "DMA\n");
    for (driver, verdict) in [
        (Some("vfio-pci"), Ok),
        (Some("mlx5_core"), Ok),
        (Some("uio_pci_generic"), Warning),
        (Some("ixgbe"), Fault),
        (None, Fault),
    ] {
        machine.pci(driver);
        let checks = look(machine.root.path(), &machine.config);
        let device = checks.iter().find(|c| c.check == "driver").unwrap();
        assert_eq!(device.verdict, verdict, "{device:?}");
        assert!(device.found.contains("0000:01:00.0"));
        let iommu = checks.iter().find(|c| c.check == "iommu").unwrap();
        assert_eq!(iommu.verdict, Ok);
    }
    machine.pci(Some("vfio-pci"));
    machine.put(
        "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        "Y\n",
    );
    fs::remove_dir_all(machine.root.path().join("sys/kernel/iommu_groups")).unwrap();
    assert_eq!(
        machine.troubles(),
        [("driver", Warning), ("iommu", Warning)]
    );
}

#[test]
fn spinning_workers_want_cores_of_their_own() {
    let mut machine = Machine::new();
    machine.config.workers.cores = vec![2, 3];
    machine.config.workers.idle = Idle::Spin;
    machine.put("sys/devices/system/cpu/isolated", "2-3,6\n");
    let siblings =
        |core: u16| format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    machine.put(&siblings(2), "2,6\n");
    machine.put(&siblings(3), "3\n");
    assert_eq!(machine.troubles(), []);
    let found = |m: &Machine| {
        let checks = look(m.root.path(), &m.config);
        checks
            .into_iter()
            .find(|c| c.check == "processors")
            .unwrap()
            .found
    };
    machine.put(&siblings(2), "2,7\n");
    assert_eq!(
        found(&machine),
        "core 2 shares its units with 7, which others use"
    );
    machine.put(&siblings(2), "2-3\n");
    assert_eq!(found(&machine), "workers 2 and 3 are threads of one core");
    machine.put(&siblings(2), "2\n");
    machine.put("sys/devices/system/cpu/isolated", "2\n");
    assert_eq!(found(&machine), "core 3 is not isolated");
    machine.config.workers.idle = Idle::Backoff;
    assert_eq!(machine.troubles(), []);
    assert_eq!(processors("0-3,8, 10-11"), [0, 1, 2, 3, 8, 10, 11].into());
    assert_eq!(processors(""), [].into());
}

#[test]
fn addresses_that_are_gone_are_named() {
    let mut config = config();
    assert_eq!(judge_addresses(&config, &[]).verdict, Verdict::NotChecked);
    config.ports.wire.host.interface = Some("dtsw".into());
    let on = |interface: &str, a: [u8; 4]| (interface.to_owned(), IpAddr::from(a));
    let (own, vip) = (on("dtsw", [10, 77, 0, 1]), on("dtsw", [10, 77, 0, 100]));
    let all = [own.clone(), vip];
    assert_eq!(judge_addresses(&config, &all).verdict, Verdict::Ok);
    let moved = [own, on("eth0", [10, 77, 0, 100])];
    let check = judge_addresses(&config, &moved);
    assert_eq!(check.verdict, Verdict::Fault);
    assert_eq!(check.found, "missing: 10.77.0.100 on dtsw");
}

#[test]
fn ports_that_are_down_are_named() {
    let mut all = [(); 4].map(|()| PortSnapshot {
        up: true,
        ..PortSnapshot::default()
    });
    assert_eq!(ports(Some(&all))[0].verdict, Verdict::Ok);
    all[2].up = false;
    let down = ports(Some(&all));
    assert_eq!((down.len(), down[0].verdict), (1, Verdict::Fault));
    assert!(down[0].found.starts_with("link "), "{down:?}");
    assert_eq!(ports(None)[0].verdict, Verdict::Fault);
}
