//! What must be true before the EAL starts, and its start.

use std::fs;
use std::path::PathBuf;

use dpdk::{Eal, log, memory, signals};
use dts_config::Config;
use dts_core::frame::Port;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::devargs::{Kind, argument};
use super::{StartError, device_string};

/// Bits of the capability sets (`linux/capability.h`).
const CAP_NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const CAP_NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");

/// Finds what the EAL or a driver would refuse with a worse message.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    let allowed = affinity()?;
    for (i, &core) in config.workers.cores.iter().enumerate() {
        if !allowed.is_set(core.into()).unwrap_or(false) {
            let cores = (0..CpuSet::count()).filter(|&c| allowed.is_set(c).unwrap_or(false));
            let cores: Vec<String> = cores.map(|c| c.to_string()).collect();
            let reason = format!(
                "core {core} is not among those of this process: {}",
                cores.join(", ")
            );
            return Err(StartError::new(format!("workers.cores.{i}"), reason));
        }
    }
    for port in Port::ALL {
        let device = device_string(config, port);
        let needs = match Kind::of(&device) {
            Kind::AfPacket => CAP_NET_RAW,
            Kind::Tap => CAP_NET_ADMIN,
            Kind::VirtioUser if device.contains("vhost-net") => CAP_NET_ADMIN,
            Kind::VirtioUser | Kind::Pci | Kind::Other => continue,
        };
        if !has_capability(&status(), needs.0) {
            let reason = format!("{device} needs {}, which this process lacks", needs.1);
            return Err(StartError::of_port(port, reason));
        }
    }
    if config.memory.hugepages {
        memory::enough_hugepages(u64::from(config.memory.megabytes) << 20)
            .map_err(|reason| StartError::new("memory.hugepages", reason))?;
    }
    Ok(())
}

/// A raw socket sends and receives what its interface does: the interface's MTU is
/// the operator's, and must suffice.
pub(super) fn interface_mtu(port: Port, device: &str, mtu: u16) -> Result<(), StartError> {
    let Some(name) = argument(device, "iface").filter(|_| Kind::of(device) == Kind::AfPacket)
    else {
        return Ok(());
    };
    // An interface that is not there is the driver's to complain about.
    let text = fs::read_to_string(format!("/sys/class/net/{name}/mtu")).unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(has) if has < u32::from(mtu) => {
            let path = format!("{}.mtu", super::key(port));
            let reason = format!("{mtu} is more than the MTU of {name}, {has}");
            Err(StartError::new(path, reason))
        }
        _ => Ok(()),
    }
}

/// The kernel's text about this process; empty where `/proc` is not there.
fn status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// Whether a capability is effective. Without the kernel's word the driver will
/// say.
fn has_capability(status: &str, bit: u32) -> bool {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_none_or(|set| set >> bit & 1 == 1)
}

fn affinity() -> Result<CpuSet, StartError> {
    sched_getaffinity(Pid::from_raw(0))
        .map_err(|e| StartError::new("workers.cores", format!("the cores cannot be read: {e}")))
}

/// The EAL's directory of this process, which it makes even when it keeps nothing
/// in it; removed on drop.
pub(super) struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// Where the EAL puts it (`eal_create_runtime_dir`).
    fn of(prefix: &str) -> Self {
        let base = if nix::unistd::getuid().is_root() {
            PathBuf::from("/var/run")
        } else {
            std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/tmp".into(), PathBuf::from)
        };
        Self(base.join("dpdk").join(prefix))
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // Removes only an empty one; a leftover does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The EAL's options, without a program name.
fn options(config: &Config, prefix: &str) -> Vec<String> {
    let mut options: Vec<String> = ["--no-telemetry", "--file-prefix", prefix, "-m"]
        .map(str::to_owned)
        .into();
    options.push(config.memory.megabytes.to_string());
    // Workers are threads of ours; the EAL's one lcore is the calling thread.
    options.push("--lcores".into());
    options.push(format!("0@{}", config.workers.cores[0]));
    if config.memory.hugepages {
        options.push("--in-memory".into());
    } else {
        options.extend(["--no-huge".into(), "--no-shconf".into()]);
    }
    if Port::ALL
        .iter()
        .any(|&p| Kind::of(&device_string(config, p)) == Kind::Pci)
    {
        // An allow-list without any device: those of the configuration are
        // attached by name, and no other is touched.
        options.extend(["-a".into(), "0000:00:00.0".into()]);
    } else {
        options.push("--no-pci".into());
    }
    options
}

/// Starts the EAL, and leaves the calling thread with its affinity and with the
/// real-time signals blocked, as all its threads.
pub(super) fn start(config: &Config) -> Result<(Eal, RuntimeDir), StartError> {
    let prefix = format!("dts{}", std::process::id());
    signals::block_realtime().map_err(|e| StartError::new("ports", e))?;
    log::set_target(log::Target::Lines(Box::new(|line| {
        tracing::debug!(target: "dpdk", "{line}");
    })));
    let before = affinity()?;
    let runtime = RuntimeDir::of(&prefix);
    let started = Eal::init(&options(config, &prefix));
    let restored = sched_setaffinity(Pid::from_raw(0), &before);
    let eal = started.map_err(|e| StartError::new("memory", e))?;
    if let Err(e) = restored {
        let _ = eal.cleanup();
        return Err(StartError::new(
            "workers.cores",
            format!("the cores cannot be set: {e}"),
        ));
    }
    Ok((eal, runtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert!(has_capability(status, CAP_NET_ADMIN.0));
        assert!(!has_capability(status, CAP_NET_RAW.0));
        assert!(has_capability("", CAP_NET_RAW.0));
    }
}
