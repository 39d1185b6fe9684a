//! What one key says about another.

use std::net::{IpAddr, SocketAddr};

use crate::error::ConfigError;
use crate::scalar::Layer2;
use crate::types::{Config, PortConfig};

/// Highest node id of hellos on the wire (`dts_core::wire::hello::ID_MOST`).
const HELLO_ID_MOST: u16 = 8_191;

type Result = std::result::Result<(), ConfigError>;

/// Checks a configuration each of whose keys is valid by itself.
pub(crate) fn config(config: &Config) -> Result {
    members(config)?;
    cluster(config)?;
    services(config)?;
    workers(config)?;
    devices(config)?;
    addresses(config)?;
    mtus(config)?;
    splice_ports(config)?;
    sizes_and_times(config)
}

fn members(config: &Config) -> Result {
    let members = &config.cluster.members;
    for (i, member) in members.iter().enumerate() {
        let error = |key: &str, reason: String| {
            Err(config.error_at(&format!("cluster.members.{i}.{key}"), reason))
        };
        for earlier in &members[..i] {
            if earlier.id == member.id {
                return error(
                    "id",
                    format!("{} is {}'s id already", member.id, earlier.name),
                );
            }
            if earlier.name == member.name {
                return error("name", format!("node {} has this name already", earlier.id));
            }
            if earlier.link == member.link {
                let link = member.link;
                return error(
                    "link",
                    format!("{link} is {}'s address already", earlier.name),
                );
            }
            if earlier.link.is_ipv4() != member.link.is_ipv4() {
                return error(
                    "link",
                    format!(
                        "{} and {}'s {} are not of one family",
                        member.link, earlier.name, earlier.link
                    ),
                );
            }
        }
    }
    if members.iter().all(|member| member.weight == 0) {
        let reason = if members.is_empty() {
            "no members"
        } else {
            "every weight is 0, so nobody would own a connection"
        };
        return Err(config.error_at("cluster.members", reason));
    }
    if config.cluster.member(config.node).is_none() {
        let reason = format!("{} is not the id of a member", config.node);
        return Err(config.error_at("node", reason));
    }
    Ok(())
}

fn cluster(config: &Config) -> Result {
    let cluster = &config.cluster;
    if cluster.other_key.as_ref() == Some(&cluster.key) {
        return Err(config.error_at("cluster.other_key", "the same as cluster.key"));
    }
    let mac = cluster.mac;
    let wrong = match cluster.layer2 {
        Layer2::Unicast if mac.is_multicast() => {
            Some("is a multicast address, and cluster.layer2 is unicast")
        }
        Layer2::Unicast | Layer2::Multicast if !mac.is_local() => {
            Some("is not locally administered (02 in its first byte)")
        }
        Layer2::Multicast if !mac.is_multicast() => {
            Some("is a unicast address, and cluster.layer2 is multicast")
        }
        Layer2::Multicast if mac.0 == [0xff; 6] => Some("is everybody's"),
        Layer2::Igmp if mac.0[..4] != [1, 0, 0x5e, 0x7f] => {
            Some("is not that of a group 239.255.X.Y, 01:00:5e:7f:X:Y")
        }
        Layer2::Unicast | Layer2::Multicast | Layer2::Igmp => None,
    };
    if let Some(wrong) = wrong {
        return Err(config.error_at("cluster.mac", format!("{mac} {wrong}")));
    }
    if !cluster.buckets.is_power_of_two() {
        let reason = format!("{} is not a power of two", cluster.buckets);
        return Err(config.error_at("cluster.buckets", reason));
    }
    let services = config.services.iter().enumerate();
    let designations = services.map(|(i, s)| (format!("services.{i}.designated"), s.designated));
    let own = ("cluster.designated".to_owned(), cluster.designated);
    for (path, designated) in std::iter::once(own).chain(designations) {
        if let Some(id) = designated.filter(|id| cluster.member(*id).is_none()) {
            return Err(config.error_at(&path, format!("{id} is not the id of a member")));
        }
    }
    Ok(())
}

fn services(config: &Config) -> Result {
    let services = &config.services;
    for (i, service) in services.iter().enumerate() {
        let error = |key: &str, reason: String| {
            Err(config.error_at(&format!("services.{i}.{key}"), reason))
        };
        for earlier in &services[..i] {
            let name = &earlier.name;
            if *name == service.name {
                return error("name", format!("\"{name}\" is the name of another service"));
            }
            if (earlier.vip, earlier.port) == (service.vip, service.port) {
                let at = SocketAddr::new(service.vip, service.port);
                return error("port", format!("{at} is service {name}'s already"));
            }
            // One proxy may serve the VIPs of both families by one port.
            if service.proxy_port.is_some()
                && (earlier.vip, earlier.proxy_port) == (service.vip, service.proxy_port)
            {
                return error(
                    "proxy_port",
                    format!(
                        "service {name} has this proxy port of {} already",
                        earlier.vip
                    ),
                );
            }
            // A frame from the host names its service by VIP and local port.
            let own = (service.vip, service.application_port);
            if (earlier.vip, earlier.application_port) == own {
                let reason = format!(
                    "service {name} has this application port on {} already",
                    service.vip
                );
                return error("application_port", reason);
            }
        }
        let Some(proxy) = service.proxy_port else {
            continue;
        };
        for other in services {
            let name = &other.name;
            if other.port == proxy {
                return error(
                    "proxy_port",
                    format!("{proxy} is the port of service {name}"),
                );
            }
            if other.application_port == proxy {
                let reason = format!("{proxy} is the application port of service {name}");
                return error("proxy_port", reason);
            }
        }
    }
    Ok(())
}

fn workers(config: &Config) -> Result {
    let cores = &config.workers.cores;
    if cores.is_empty() {
        return Err(config.error_at("workers.cores", "no cores"));
    }
    for (i, core) in cores.iter().enumerate() {
        if cores[..i].contains(core) {
            let reason = format!("core {core} is listed twice");
            return Err(config.error_at(&format!("workers.cores.{i}"), reason));
        }
    }
    Ok(())
}

/// The part of a device string by which DPDK tells devices apart.
fn device_name(device: &str) -> String {
    let name = device.split(',').next().unwrap_or(device);
    let name = name.to_ascii_lowercase();
    // PCI domain 0 may be left out.
    name.strip_prefix("0000:")
        .map(str::to_owned)
        .unwrap_or(name)
}

fn devices(config: &Config) -> Result {
    let (wire, link) = (&config.ports.wire, &config.ports.link);
    let devices = [
        ("ports.wire.device", &wire.device),
        ("ports.wire.host.device", &wire.host.device),
        ("ports.link.device", &link.device),
        ("ports.link.host.device", &link.host.device),
    ];
    for (i, (path, device)) in devices.iter().enumerate() {
        let name = device_name(device);
        for (earlier, other) in &devices[..i] {
            if device_name(other) == name {
                let reason = format!("{name} is the device of {earlier} already");
                return Err(config.error_at(path, reason));
            }
        }
    }
    if link.host.interface.is_some() && link.host.interface == wire.host.interface {
        let reason = "the same as ports.wire.host.interface";
        return Err(config.error_at("ports.link.host.interface", reason));
    }
    Ok(())
}

fn addresses(config: &Config) -> Result {
    let ports = [("wire", &config.ports.wire), ("link", &config.ports.link)];
    let has = |port: &PortConfig, ip: IpAddr| port.host.addresses.iter().any(|a| a.address == ip);
    for (i, service) in config.services.iter().enumerate() {
        let path = format!("services.{i}.vip");
        let vip = service.vip;
        if let Some(member) = config.cluster.members.iter().find(|m| m.link == vip) {
            let reason = format!("{vip} is the link address of node {}", member.id);
            return Err(config.error_at(&path, reason));
        }
        if let Some((name, _)) = ports.iter().find(|(_, port)| has(port, vip)) {
            let reason = format!("{vip} is in ports.{name}.host.addresses");
            return Err(config.error_at(&path, reason));
        }
    }
    let link = &config.ports.link;
    let own = config.this_member().link;
    if !link.host.addresses.is_empty() && !has(link, own) {
        let reason = format!(
            "{own}, the link address of node {}, is not there",
            config.node
        );
        return Err(config.error_at("ports.link.host.addresses", reason));
    }
    Ok(())
}

/// Least MTU of anything that carries IPv6 (RFC 8200, section 5).
const IPV6_MTU: u16 = 1_280;

fn mtus(config: &Config) -> Result {
    let vips = config.services.iter().any(|s| s.vip.is_ipv6());
    let links = config.this_member().link.is_ipv6();
    let ports = [
        ("wire", &config.ports.wire, vips),
        ("link", &config.ports.link, links),
    ];
    for (name, port, ours) in ports {
        let own = port.host.addresses.iter().any(|a| a.address.is_ipv6());
        if (ours || own) && port.mtu < IPV6_MTU {
            let reason = format!("{} is less than {IPV6_MTU}, which IPv6 needs", port.mtu);
            return Err(config.error_at(&format!("ports.{name}.mtu"), reason));
        }
    }
    Ok(())
}

fn splice_ports(config: &Config) -> Result {
    const PATH: &str = "handover.splice_ports";
    let range = config.handover.splice_ports;
    let (first, last) = (range.first, range.last);
    if first > last {
        return Err(config.error_at(PATH, format!("first {first} is above last {last}")));
    }
    for service in &config.services {
        let ports = [
            ("port", Some(service.port)),
            ("proxy port", service.proxy_port),
            ("application port", Some(service.application_port)),
        ];
        for (what, port) in ports {
            if let Some(port) = port.filter(|port| range.contains(*port)) {
                let name = &service.name;
                let reason =
                    format!("{first} to {last} contains {port}, the {what} of service {name}");
                return Err(config.error_at(PATH, reason));
            }
        }
    }
    let (count, workers) = (range.count(), config.workers.cores.len());
    if (count as usize) < workers {
        let reason = format!("{count} ports are too few for {workers} workers");
        return Err(config.error_at(PATH, reason));
    }
    Ok(())
}

fn sizes_and_times(config: &Config) -> Result {
    let (memory, handover, peers) = (&config.memory, &config.handover, &config.peers);
    if memory.hold_flow_kib > memory.hold_kib {
        let reason = format!(
            "{} for one flow is more than memory.hold_kib, {}, for all",
            memory.hold_flow_kib, memory.hold_kib
        );
        return Err(config.error_at("memory.hold_flow_kib", reason));
    }
    let share = config.hold_kib_per_worker();
    if memory.hold_flow_kib > share {
        let reason = format!(
            "{} over {} workers leaves {share} for each, and one flow may need {}",
            memory.hold_node_kib,
            config.workers.cores.len(),
            memory.hold_flow_kib
        );
        return Err(config.error_at("memory.hold_node_kib", reason));
    }
    if handover.unknown_deadline < handover.deadline {
        let reason = format!(
            "{} is less than handover.deadline_ms, {}",
            handover.unknown_deadline.as_millis(),
            handover.deadline.as_millis()
        );
        return Err(config.error_at("handover.unknown_deadline_ms", reason));
    }
    if peers.answer * 2 > peers.probe {
        let reason = format!(
            "{} is more than half of peers.probe_ms, {}",
            peers.answer.as_millis(),
            peers.probe.as_millis()
        );
        return Err(config.error_at("peers.answer_ms", reason));
    }
    let ids = config.cluster.members.iter().map(|m| m.id.0);
    if peers.hello.is_some() && ids.max() > Some(HELLO_ID_MOST) {
        let reason = format!("hellos take node ids up to {HELLO_ID_MOST} only: 0 for none");
        return Err(config.error_at("peers.hello_ms", reason));
    }
    for (i, service) in config.services.iter().enumerate() {
        if let Some(health) = service.health.as_ref().filter(|h| h.timeout > h.interval) {
            let reason = format!(
                "{} is more than interval_ms, {}",
                health.timeout.as_millis(),
                health.interval.as_millis()
            );
            let path = format!("services.{i}.health.timeout_ms");
            return Err(config.error_at(&path, reason));
        }
    }
    if config.reports.port == peers.port {
        return Err(config.error_at("reports.port", "the same as peers.port"));
    }
    if config.control.admin_socket == config.control.rpc_socket {
        let reason = "the same as control.rpc_socket";
        return Err(config.error_at("control.admin_socket", reason));
    }
    Ok(())
}
