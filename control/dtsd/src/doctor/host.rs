//! This machine: memory, devices, kernel settings, processors, permissions.

use super::{Check, or_ok};
use crate::{routes, twins};
use dts_config::{Config, Idle, Replay};
use dts_core::frame::Port;
use dts_worker::PortSnapshot;
use nix::ifaddrs::getifaddrs;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Bits of `net.ipv4.tcp_fastopen` that a replay needs: server, data without a cookie,
/// listeners that did not ask (`ip-sysctl`).
const FAST_OPEN: u32 = 0x2 | 0x200 | 0x400;
/// What `docs/operations.md` says.
const FAST_OPEN_TODO: &str = "set net.ipv4.tcp_fastopen=1539 and start the application anew: a listener takes the \
                              setting when it is made; until then handovers take the handshake replay";
/// Least queues of connections that nobody has accepted.
const BACKLOG: u32 = 4096;
/// Drivers by which DPDK has a device with the IOMMU's protection, without it, and beside the
/// kernel.
const VFIO: &str = "vfio-pci";
const UIO: [&str; 3] = ["uio_pci_generic", "igb_uio", "uio_hv_generic"];
const BIFURCATED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// Bits of the capability sets (`linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_NICE: u32 = 23;

/// The files under `root`.
struct Host<'a> {
    root: &'a Path,
    config: &'a Config,
}

/// Everything that files tell, under `root`.
pub(super) fn look(root: &Path, config: &Config) -> Vec<Check> {
    let host = Host { root, config };
    let mut checks = vec![host.hugepages()];
    checks.extend(host.devices());
    checks.push(host.iommu());
    checks.push(host.twins());
    checks.push(host.tcp());
    checks.push(host.fast_open());
    checks.push(host.backlog());
    checks.push(host.processors());
    checks.extend(host.permissions());
    checks
}

/// The address of a device on the PCI bus, with its domain.
fn pci_address(device: &str) -> Option<String> {
    let name = device.split(',').next().unwrap_or_default();
    // Only addresses on a bus have a colon before the first comma.
    let colons = name.matches(':').count();
    match colons {
        0 => None,
        1 => Some(format!("0000:{name}")),
        _ => Some(name.to_owned()),
    }
}

/// The processors of a list such as `0-3,8`.
fn processors(list: &str) -> BTreeSet<u16> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u16>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

impl Host<'_> {
    fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn sysctl<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(&format!("proc/sys/{name}"))?.parse().ok()
    }

    fn devices_of(&self) -> [(Port, &str); 4] {
        let ports = &self.config.ports;
        let device = |port| match port {
            Port::Wire => &ports.wire.device,
            Port::WireHost => &ports.wire.host.device,
            Port::Link => &ports.link.device,
            Port::LinkHost => &ports.link.host.device,
        };
        Port::ALL.map(|port| (port, device(port).as_str()))
    }

    fn hugepages(&self) -> Check {
        const NAME: &str = "hugepages";
        let memory = &self.config.memory;
        if !memory.hugepages {
            return Check::warning(
                NAME,
                "memory.hugepages is false: packets are in ordinary memory",
                "set hugepages aside (vm.nr_hugepages) and memory.hugepages: true, for speed",
            );
        }
        let wanted = u64::from(memory.megabytes) << 10;
        let folder = self.root.join("sys/kernel/mm/hugepages");
        let of = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let size: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((size, count.trim().parse().ok()?))
        };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let sizes: Vec<(u64, u64)> = entries.filter_map(of).collect();
        let found = |(size, count): &(u64, u64)| format!("{count} pages of {size} KiB");
        let found: Vec<String> = sizes.iter().map(found).collect();
        let found = format!(
            "{} for memory.megabytes: {}",
            found.join(", "),
            memory.megabytes
        );
        if sizes.iter().any(|(size, count)| size * count >= wanted) {
            return Check::ok(NAME, found);
        }
        let todo = format!(
            "sysctl vm.nr_hugepages={} (or more) before dtsd is started again",
            memory.megabytes.div_ceil(2)
        );
        Check::fault(NAME, format!("too few: {found}"), todo)
    }

    fn devices(&self) -> Vec<Check> {
        self.devices_of()
            .map(|(port, device)| self.device(port, device))
            .into()
    }

    fn device(&self, port: Port, device: &str) -> Check {
        const NAME: &str = "driver";
        let port = port.name();
        let Some(address) = pci_address(device) else {
            return Check::not_checked(NAME, format!("{port}: {device} is not a PCI device"));
        };
        let folder = format!("sys/bus/pci/devices/{address}");
        let link = fs::read_link(self.root.join(&folder).join("driver"));
        let driver = link
            .ok()
            .and_then(|l| Some(l.file_name()?.to_str()?.to_owned()));
        let Some(driver) = driver else {
            let todo = format!("dpdk-devbind.py --bind={VFIO} {address}");
            return Check::fault(NAME, format!("{port}: {address} has no driver"), todo);
        };
        let found = format!("{port}: {address} is bound to {driver}");
        if driver == VFIO {
            return match self.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode") {
                Some(mode) if mode == "Y" => Check::warning(
                    NAME,
                    format!("{found}, in its mode without an IOMMU"),
                    "switch the IOMMU on (firmware; intel_iommu=on or amd_iommu=on) and that mode off: the \
                     device may write to any memory",
                ),
                _ => Check::ok(NAME, found),
            };
        }
        if BIFURCATED.contains(&driver.as_str()) {
            return Check::ok(NAME, format!("{found}, which shares it with DPDK"));
        }
        let todo = format!("dpdk-devbind.py --bind={VFIO} {address}");
        if UIO.contains(&driver.as_str()) {
            let found = format!("{found}, without an IOMMU's protection");
            return Check::warning(NAME, found, todo);
        }
        Check::fault(NAME, format!("{found}, the kernel's"), todo)
    }

    fn iommu(&self) -> Check {
        const NAME: &str = "iommu";
        if self
            .devices_of()
            .iter()
            .all(|(_, d)| pci_address(d).is_none())
        {
            return Check::not_checked(NAME, "no port is a PCI device");
        }
        let groups = fs::read_dir(self.root.join("sys/kernel/iommu_groups"));
        match groups.map_or(0, Iterator::count) {
            0 => Check::warning(
                NAME,
                "it is off, or the machine has none",
                "switch it on: in the firmware, and by intel_iommu=on or amd_iommu=on",
            ),
            n => Check::ok(NAME, format!("on, {n} groups")),
        }
    }

    /// What `dtsd` has set on the twins and somebody may have changed since.
    fn twins(&self) -> Check {
        const NAME: &str = "twin_settings";
        let expected = twins::expected(self.config);
        if expected.is_empty() {
            return Check::not_checked(NAME, "no port has a host interface");
        }
        let differs = |(name, value): &(String, &str)| {
            let is: Option<String> = self.sysctl(&format!("net/{name}"));
            let is = is.unwrap_or_else(|| "not there".into());
            let name = name.replace('/', ".");
            (is != *value).then(|| format!("net.{name} is {is}, not {value}"))
        };
        let differ: Vec<String> = expected.iter().filter_map(differs).collect();
        if differ.is_empty() {
            return Check::ok(NAME, format!("all {} as dtsd has set them", expected.len()));
        }
        Check::fault(
            NAME,
            differ.join("; "),
            "set them so (sysctl -w), and find out what changes them: sysctl.d, a network manager",
        )
    }

    fn tcp(&self) -> Check {
        const NAME: &str = "tcp_settings";
        let names = ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"];
        let value = |name: &str| self.sysctl::<u32>(&format!("net/ipv4/{name}"));
        let off: Vec<&str> = names.into_iter().filter(|n| value(n) == Some(0)).collect();
        if names.iter().any(|n| value(n).is_none()) {
            return Check::not_checked(NAME, "the kernel's settings cannot be read");
        }
        if off.is_empty() {
            return Check::ok(NAME, "timestamps, SACK and window scaling are on");
        }
        Check::warning(
            NAME,
            format!("net.ipv4.{} is 0", off.join(", ")),
            "set it to 1, on all nodes alike, and start dtsd anew",
        )
    }

    fn fast_open(&self) -> Check {
        const NAME: &str = "fast_open";
        let proxied = self.config.services.iter().any(|s| s.proxy_port.is_some());
        if !proxied || self.config.handover.replay != Replay::FastOpen {
            return Check::not_checked(NAME, "no handover would use it");
        }
        match self.sysctl::<u32>("net/ipv4/tcp_fastopen") {
            None => Check::not_checked(NAME, "net.ipv4.tcp_fastopen cannot be read"),
            Some(n) if n & FAST_OPEN == FAST_OPEN => {
                Check::ok(NAME, format!("net.ipv4.tcp_fastopen is {n}"))
            }
            Some(n) => {
                let found = format!("net.ipv4.tcp_fastopen is {n}");
                Check::warning(NAME, found, FAST_OPEN_TODO)
            }
        }
    }

    fn backlog(&self) -> Check {
        const NAME: &str = "backlog";
        let names = ["net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog"];
        let small = |name: &str| {
            let n: u32 = self.sysctl(name)?;
            (n < BACKLOG).then(|| format!("{} is {n}", name.replace('/', ".")))
        };
        let small: Vec<String> = names.into_iter().filter_map(small).collect();
        if small.is_empty() {
            return Check::ok(NAME, format!("{BACKLOG} or more"));
        }
        let todo = format!(
            "set them to {BACKLOG} or more and start proxy and application anew: a full queue is silent"
        );
        Check::warning(NAME, small.join("; "), todo)
    }

    fn processors(&self) -> Check {
        const NAME: &str = "processors";
        let workers = &self.config.workers;
        let cores: BTreeSet<u16> = workers.cores.iter().copied().collect();
        let isolated = self.text("sys/devices/system/cpu/isolated");
        let isolated = processors(&isolated.unwrap_or_default());
        let mut findings = Vec::new();
        for &core in &cores {
            let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
            let siblings = processors(&self.text(&path).unwrap_or_default());
            for s in siblings.range(core + 1..).filter(|s| cores.contains(s)) {
                findings.push(format!("workers {core} and {s} are threads of one core"));
            }
            if workers.idle != Idle::Spin {
                continue;
            }
            if !isolated.contains(&core) {
                findings.push(format!("core {core} is not isolated"));
            }
            let busy = |s: &&u16| **s != core && !cores.contains(s) && !isolated.contains(s);
            if let Some(s) = siblings.iter().find(busy) {
                findings.push(format!(
                    "core {core} shares its units with {s}, which others use"
                ));
            }
        }
        if findings.is_empty() {
            let how = match workers.idle {
                Idle::Spin => "isolated, without busy siblings",
                Idle::Backoff => {
                    "workers sleep when idle; for the least delay: idle: spin on isolated cores"
                }
            };
            return Check::ok(NAME, how);
        }
        Check::warning(
            NAME,
            findings.join("; "),
            "give each worker a physical core of its own, kept free by isolcpus, nohz_full and rcu_nocbs",
        )
    }

    fn permissions(&self) -> Vec<Check> {
        const NAME: &str = "permissions";
        let status = self.text("proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let Some(set) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
            return vec![Check::not_checked(
                NAME,
                "the process's capabilities cannot be read",
            )];
        };
        let lacks = |bit: u32| set >> bit & 1 == 0;
        let ports = &self.config.ports;
        let twins = [&ports.wire.host, &ports.link.host];
        let mut findings = Vec::new();
        if lacks(CAP_NET_ADMIN) && twins.iter().any(|t| t.interface.is_some()) {
            findings.push(Check::fault(
                NAME,
                "dtsd lacks CAP_NET_ADMIN: twins, routing rules and the silent close need it",
                "run it as root, or with that capability",
            ));
        }
        if lacks(CAP_SYS_NICE) {
            findings.push(Check::warning(
                NAME,
                "dtsd lacks CAP_SYS_NICE: the membership's thread may be late, and a late answer looks like a death",
                "run it as root, or with that capability",
            ));
        }
        or_ok(findings, Check::ok(NAME, "dtsd may do what it needs"))
    }
}

/// Whether the data plane's ports are up.
pub(super) fn ports(ports: Option<&[PortSnapshot; 4]>) -> Vec<Check> {
    const NAME: &str = "ports";
    let Some(ports) = ports else {
        let todo = "look into dtsd's log";
        return vec![Check::fault(NAME, "the data plane is not up", todo)];
    };
    let down = ports.iter().zip(Port::ALL).filter(|(p, _)| !p.up);
    let finding = |(p, port): (&PortSnapshot, Port)| {
        let found = format!("{} ({}) is down", port.name(), p.device);
        Check::fault(
            NAME,
            found,
            "look at cable and switch; or at the twin's interface (ip link)",
        )
    };
    or_ok(
        down.map(finding).collect(),
        Check::ok(NAME, "all four are up"),
    )
}

/// Whether the kernel has all addresses on the twins.
pub(super) fn addresses(config: &Config) -> Check {
    let Ok(interfaces) = getifaddrs() else {
        return Check::not_checked("addresses", "the kernel's addresses cannot be read");
    };
    let address = |i: nix::ifaddrs::InterfaceAddress| {
        let address = i.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (_, Some(v6)) => IpAddr::from(v6.ip()),
            _ => return None,
        };
        Some((i.interface_name, ip))
    };
    judge_addresses(config, &interfaces.filter_map(address).collect::<Vec<_>>())
}

fn judge_addresses(config: &Config, there: &[(String, IpAddr)]) -> Check {
    const NAME: &str = "addresses";
    let mut wanted: BTreeSet<(&str, IpAddr)> = BTreeSet::new();
    for port in [&config.ports.wire, &config.ports.link] {
        let own = port.host.addresses.iter().map(|a| a.address);
        let interface = port.host.interface.as_deref();
        wanted.extend(
            interface
                .into_iter()
                .flat_map(|i| own.clone().map(move |a| (i, a))),
        );
    }
    if let Some(wire) = config.ports.wire.host.interface.as_deref() {
        wanted.extend(config.services.iter().map(|s| (wire, s.vip)));
    }
    if wanted.is_empty() {
        return Check::not_checked(NAME, "no port has a host interface");
    }
    let is_there = |(i, a): &&(&str, IpAddr)| there.iter().any(|(j, b)| i == j && a == b);
    let missing = wanted.iter().filter(|w| !is_there(w));
    let missing: Vec<String> = missing.map(|(i, a)| format!("{a} on {i}")).collect();
    if missing.is_empty() {
        return Check::ok(NAME, format!("all {} are on the twins", wanted.len()));
    }
    Check::fault(
        NAME,
        format!("missing: {}", missing.join(", ")),
        "start dtsd anew, and find out what removes them: a network manager must leave the twins alone",
    )
}

/// Whether the routing rules for what services send are there.
pub(super) async fn rules(config: &Config) -> Check {
    const NAME: &str = "routing_rules";
    if config.ports.wire.host.interface.is_none() {
        return Check::not_checked(NAME, "the wire has no host interface");
    }
    let wanted = routes::rules_of(config);
    match routes::count_rules().await {
        Err(e) => Check::not_checked(NAME, format!("the kernel's rules cannot be read: {e}")),
        Ok(n) if n >= wanted => Check::ok(NAME, format!("all {wanted} are there")),
        Ok(n) => Check::fault(
            NAME,
            format!("{n} of {wanted} rules of table {} are there", routes::TABLE),
            "start dtsd anew, and find out what removes them (ip rule): answers to clients need them",
        ),
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
