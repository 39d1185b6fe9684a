//! From a configuration to started ports, or to one error that names the key to
//! blame, with nothing left half-started.

mod devargs;
mod env;
mod mac;
mod nic;
mod offloads;

use std::fmt::Display;
use std::time::Duration;

use dpdk::{Configured, DevInfo, Eal, Gso, HEADROOM, Mempool, PortConf, hotplug};
use dts_config::{Config, Idle};
use dts_core::frame::Port;
use dts_core::steer::Steer;
use dts_core::wire::Mac;

use crate::offload::Finish;
use crate::stats::PortSnapshot;
use devargs::Kind;

/// What keeps the data plane from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct StartError {
    /// The configuration key that asked for it, as `ports.wire.device`.
    pub path: String,
    /// Why it cannot be, in one line.
    pub reason: String,
}

impl StartError {
    pub(crate) fn new(path: impl Into<String>, reason: impl Display) -> Self {
        Self {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn of_port(port: Port, reason: impl Display) -> Self {
        Self::new(format!("{}.device", key(port)), reason)
    }
}

/// The configuration key of a port.
fn key(port: Port) -> &'static str {
    match port {
        Port::Wire => "ports.wire",
        Port::WireHost => "ports.wire.host",
        Port::Link => "ports.link",
        Port::LinkHost => "ports.link.host",
    }
}

/// Packet buffers that a thread keeps for itself.
const POOL_CACHE: u32 = 256;
/// Descriptors of a queue, at most.
const DESCRIPTORS: u32 = 1024;
/// `net_tap` sets a buffer aside per descriptor and shows all of them to the
/// kernel with each frame; one frame needs one.
const TAP_DESCRIPTORS: u16 = 16;
/// Ethernet header, two VLAN tags and FCS.
const FRAME_OVERHEAD: u16 = 14 + 8 + 4;
/// Segments of large frames that may be on their way, per worker.
const SEGMENTS: u32 = 4095;
/// What `net_af_packet` counts off a ring's frame that is as large as a buffer.
const RING_HEADER: u16 = 32;

/// One started port.
struct Device {
    port: dpdk::Port,
    info: DevInfo,
    queues: u16,
    finish: Finish,
    configured: Configured,
    report: offloads::Report,
    /// They end before the port does.
    rules: nic::Rules,
}

/// The environment, with four started ports and a packet pool per worker.
///
/// The calling thread and all threads that it starts keep the real-time signals
/// of `net_tap` blocked; workers unblock them for themselves. Dropping it closes
/// the ports; [`Opened::close`] ends the EAL too.
pub struct Opened {
    // Ports go before the pools from which they have buffers.
    devices: [Device; 4],
    pub(crate) pools: Vec<Mempool>,
    /// One per worker, or none where no large frames come.
    pub(crate) gso: Vec<Gso>,
    eal: Eal,
    runtime: env::RuntimeDir,
    pub(crate) cores: Vec<u16>,
    pub(crate) idle: Idle,
    pub(crate) idle_sleep: Duration,
    pub(crate) flows: usize,
    pub(crate) hold: usize,
    pub(crate) mbufs: usize,
    /// The wire NIC's own address, which the node's frames bear there.
    pub wire_mac: Mac,
    /// The node's address on the link, which the link twin bears.
    pub link_mac: Mac,
    /// Of [`Steer`]: the wire NIC spreads clients over its queues by it, so the view
    /// should too. Random per start.
    pub steer_key: [u8; 16],
}

/// Starts the EAL, attaches the four devices, and starts them.
///
/// Call it before any other thread exists: the calling thread's signal mask and
/// the EAL's own threads depend on it. It returns with the calling thread's core
/// affinity as it was. The EAL's log goes to `tracing` (target `dpdk`, level
/// debug); errors quote it.
///
/// # Errors
/// The first thing that is missing or refused, with the key that asked for it.
/// Nothing is left behind then; but the EAL starts only once per process, so a
/// second call works only if the first one failed before that.
pub fn open(config: &Config) -> Result<Opened, StartError> {
    let mtu = config.ports.wire.mtu.max(config.ports.link.mtu);
    open_with(config, data_room(mtu))
}

/// As [`open`], with packet buffers of `room` bytes, [`HEADROOM`] included.
/// Benchmarks that keep millions of short frames in memory ask for small ones; what
/// exceeds a buffer comes in several.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(config: &Config, room: u16) -> Result<Opened, StartError> {
    env::check(config)?;
    let mut steer_key = [0; 16];
    getrandom::fill(&mut steer_key).map_err(|e| StartError::new("workers.cores", e))?;
    let (eal, runtime) = env::start(config)?;
    // What was opened on the way is closed when `bring_up` returns without it.
    match bring_up(config, room, &Steer::new(steer_key)) {
        Ok((devices, pools, gso, wire_mac, link_mac)) => Ok(Opened {
            devices,
            pools,
            gso,
            eal,
            runtime,
            cores: config.workers.cores.clone(),
            idle: config.workers.idle,
            idle_sleep: config.workers.idle_sleep,
            flows: config.memory.flows as usize,
            hold: config.hold_kib_per_worker() as usize * 1024,
            mbufs: config.memory.mbufs as usize,
            wire_mac,
            link_mac,
            steer_key,
        }),
        Err(error) => {
            // There is nothing to add to the first error.
            let _ = eal.cleanup();
            drop(runtime);
            Err(error)
        }
    }
}

type Up = ([Device; 4], Vec<Mempool>, Vec<Gso>, Mac, Mac);

fn bring_up(config: &Config, room: u16, steer: &Steer) -> Result<Up, StartError> {
    let workers = config.workers.cores.len();
    let count = config.memory.mbufs;
    let pools = (0..workers)
        .map(|w| {
            let cache = POOL_CACHE.min(count / 4);
            Mempool::new(&format!("dts_pool{w}"), count, cache, room, None)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| {
            let need = (u64::from(count) * u64::from(room) * workers as u64) >> 20;
            let have = config.memory.megabytes;
            let hint = format!(
                "{workers} x {count} packet buffers take {need} MiB, memory.megabytes is {have}"
            );
            StartError::new("memory.mbufs", format!("{e}; {hint}"))
        })?;

    // NICs first: the twins' addresses follow from theirs.
    let mut nics = Vec::new();
    for port in [Port::Wire, Port::Link] {
        let conf = conf(config, port);
        env::interface_mtu(port, &conf.device, conf.mtu)?;
        let text = devargs::nic(&conf.device, conf.mtu, data_room(conf.mtu) - HEADROOM);
        let opened = hotplug::attach_one(&text).map_err(|e| StartError::of_port(port, e))?;
        nics.push(opened);
    }
    let [wire_nic, link_nic] = take(nics);
    let wire_mac = mac::wire(config, &wire_nic)?;
    let link_mac = mac::link(config, &link_nic)?;
    let twin = |port: Port, mac: Mac| -> Result<dpdk::Port, StartError> {
        let text = devargs::twin(
            &device_string(config, port),
            mac,
            wanted_queues(config, port),
        );
        let opened = hotplug::attach_one(&text).map_err(|e| StartError::of_port(port, e))?;
        mac::set_twin(port, &opened, mac)?;
        Ok(opened)
    };
    let wire_host = twin(Port::WireHost, config.cluster.host_mac().0)?;
    let link_host = twin(Port::LinkHost, link_mac)?;

    let infos = [&wire_nic, &wire_host, &link_nic, &link_host]
        .into_iter()
        .zip(Port::ALL)
        .map(|(opened, port)| opened.info().map_err(|e| StartError::of_port(port, e)))
        .collect::<Result<Vec<_>, _>>()?;
    let plans = offloads::plan(config, &take(infos));
    let gso = if plans.iter().any(|p| p.large) {
        (0..workers)
            .map(|w| Gso::new(&format!("dts_gso{w}"), SEGMENTS, POOL_CACHE))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| StartError::new("memory.megabytes", e))?
    } else {
        Vec::new()
    };
    let mut devices = Vec::new();
    for (port, opened) in Port::ALL
        .into_iter()
        .zip([wire_nic, wire_host, link_nic, link_host])
    {
        devices.push(configure(
            config,
            port,
            opened,
            &pools,
            &plans[port.index()],
            (port == Port::Wire).then_some(steer),
        )?);
    }
    for (port, d) in Port::ALL.into_iter().zip(&mut devices) {
        d.port.start().map_err(|e| StartError::of_port(port, e))?;
        // Frames for the VIP come to an address that no NIC has, and the link
        // twin's address need not be the NIC's. Devices in memory have no such
        // mode, and some drivers want to be started first.
        if matches!(port, Port::Wire | Port::Link) {
            let result = d.port.set_promiscuous(true);
            if Kind::of_driver(&d.info.driver).is_network() {
                result.map_err(|e| StartError::of_port(port, e))?;
            }
        }
        if port == Port::Wire {
            let spread = nic::spread(&d.port, &d.info, &d.configured, d.queues, workers);
            let (rules, report) = nic::rules(&d.port, config, wire_mac);
            d.rules = rules;
            d.report.push(spread);
            d.report.extend(report);
        }
        tell(config, port, d);
    }
    Ok((take(devices), pools, gso, wire_mac, link_mac))
}

/// A vector of known length as an array.
fn take<T, const N: usize>(v: Vec<T>) -> [T; N] {
    match v.try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("one entry per port was pushed"),
    }
}

fn conf(config: &Config, port: Port) -> &dts_config::PortConfig {
    match port {
        Port::Wire | Port::WireHost => &config.ports.wire,
        Port::Link | Port::LinkHost => &config.ports.link,
    }
}

fn device_string(config: &Config, port: Port) -> String {
    let conf = conf(config, port);
    match port {
        Port::Wire | Port::Link => conf.device.clone(),
        Port::WireHost | Port::LinkHost => conf.host.device.clone(),
    }
}

/// Queues that are worth asking for: more than one per worker help nobody.
fn wanted_queues(config: &Config, port: Port) -> u16 {
    let workers = u16::try_from(config.workers.cores.len()).unwrap_or(u16::MAX);
    conf(config, port).queues.min(workers).max(1)
}

/// Logs what a started port is.
fn tell(config: &Config, port: Port, d: &Device) {
    let words: Vec<String> = d
        .report
        .iter()
        .map(|(what, by)| format!("{what}={by}"))
        .collect();
    tracing::info!(
        port = port.name(),
        driver = d.info.driver,
        mtu = conf(config, port).mtu,
        vlan = vlan(config, port),
        offloads = words.join(" "),
        "port"
    );
}

/// The VLAN of a port; twins are untagged.
fn vlan(config: &Config, port: Port) -> Option<u16> {
    match port {
        Port::Wire | Port::Link => conf(config, port).vlan,
        Port::WireHost | Port::LinkHost => None,
    }
}

/// Bytes of a packet buffer: one holds any frame of this MTU, so that frames are
/// in one piece, and is a multiple of what NICs count in.
fn data_room(mtu: u16) -> u16 {
    HEADROOM
        + (mtu + FRAME_OVERHEAD + RING_HEADER)
            .next_multiple_of(1024)
            .max(2048)
}

fn configure(
    config: &Config,
    port: Port,
    opened: dpdk::Port,
    pools: &[Mempool],
    plan: &offloads::Plan,
    steer: Option<&Steer>,
) -> Result<Device, StartError> {
    let fail = |e: dpdk::Error| StartError::of_port(port, e);
    let info = opened.info().map_err(fail)?;
    let mtu = conf(config, port).mtu;
    // It tells of 1500 bytes and carries what its ring's frames hold, which
    // `devargs::nic` has asked for.
    let modest = Kind::of_driver(&info.driver) == Kind::AfPacket;
    if mtu > info.max_mtu && !modest {
        let hint = match Kind::of_driver(&info.driver) {
            Kind::Tap => "; a twin for larger frames is virtio-user",
            _ => "",
        };
        let reason = format!(
            "{mtu} is more than {} ({}) can do: {}{hint}",
            opened.name(),
            info.driver,
            info.max_mtu
        );
        let path = match port {
            Port::Wire | Port::WireHost => "ports.wire.mtu",
            Port::Link | Port::LinkHost => "ports.link.mtu",
        };
        return Err(StartError::new(path, reason));
    }
    // As many each way: net_tap and net_af_packet have pairs.
    let queues = wanted_queues(config, port)
        .min(info.max_rx_queues)
        .min(info.max_tx_queues);
    // Half of a pool at most waits in descriptors of all ports.
    let share = (config.memory.mbufs / 16).clamp(32, DESCRIPTORS);
    let desc = 1u16 << share.ilog2();
    let rss_key =
        nic::rss_key(info.rss_key_bytes, steer).map_err(|e| StartError::of_port(port, e))?;
    let configured = opened
        .configure(&PortConf {
            rx_queues: queues,
            tx_queues: queues,
            rx_desc: if info.driver == "net_tap" {
                TAP_DESCRIPTORS
            } else {
                desc
            },
            tx_desc: desc,
            mtu: mtu.min(info.max_mtu),
            keep_mtu: modest,
            rx_offloads: plan.rx,
            tx_offloads: plan.tx,
            rss_key: Some(rss_key),
            // An idle worker sleeps on a TAP's descriptor.
            rx_interrupts: info.driver == "net_tap",
        })
        .map_err(fail)?;
    // Queue q takes its buffers from pool q modulo workers, its poller's.
    opened.setup_queues(pools).map_err(fail)?;
    let vlan = vlan(config, port);
    Ok(Device {
        port: opened,
        info,
        queues,
        finish: plan.finish(mtu, vlan, &configured),
        report: plan.report(port, &configured, vlan.is_some()),
        configured,
        rules: nic::Rules::new(),
    })
}

impl Opened {
    /// Queues each way of a port.
    pub fn queues(&self, port: Port) -> u16 {
        self.devices[port.index()].queues
    }

    /// What a port's driver tells of it.
    pub(crate) fn info(&self, port: Port) -> &DevInfo {
        &self.devices[port.index()].info
    }

    /// The driver's name of a port, as `net_tap`.
    pub fn driver(&self, port: Port) -> &str {
        &self.devices[port.index()].info.driver
    }

    /// True if the link of a port is up, as far as its driver tells.
    pub fn link_up(&self, port: Port) -> bool {
        self.port(port).link_up().unwrap_or(false)
    }

    pub(crate) fn port(&self, port: Port) -> &dpdk::Port {
        &self.devices[port.index()].port
    }

    /// What frames need before this port sends them.
    pub(crate) fn finish(&self, port: Port) -> Finish {
        self.devices[port.index()].finish
    }

    pub(crate) fn has_tap(&self) -> bool {
        self.devices.iter().any(|d| d.info.driver == "net_tap")
    }

    pub(crate) fn snapshot(&self, port: Port) -> PortSnapshot {
        let d = &self.devices[port.index()];
        let link = d.port.link().ok();
        PortSnapshot {
            device: d.port.name().to_owned(),
            driver: d.info.driver.clone(),
            queues: d.queues,
            offloads: d.report.clone(),
            dropped: nic::hits(&d.rules),
            up: link.is_some_and(|l| l.up),
            mbps: link.and_then(|l| l.mbps),
            eth: d.port.stats().unwrap_or_default(),
        }
    }

    /// Closes the ports, frees the pools and ends the EAL.
    ///
    /// # Errors
    /// The first thing that could not be ended; the others are all the same.
    pub fn close(self) -> Result<(), dpdk::Error> {
        let Opened {
            devices,
            pools,
            gso,
            eal,
            runtime,
            ..
        } = self;
        let mut result = Ok(());
        for mut device in devices {
            device.rules.clear();
            result = result.and(device.port.detach());
        }
        drop(pools);
        drop(gso);
        result = result.and(eal.cleanup());
        drop(runtime);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_a_frame() {
        for mtu in [576, 1500, 1990, 1991, 9000, 9216] {
            assert!(data_room(mtu) - HEADROOM >= mtu + FRAME_OVERHEAD);
        }
        assert_eq!(data_room(1500), dpdk::DEFAULT_DATA_ROOM);
        assert_eq!(data_room(9000), 9216 + HEADROOM);
    }
}
