//! The kernel's side of the host twins: addresses, and a stack that never waits
//! for ARP or neighbour discovery and never gives the VIPs away.

use crate::routes;
use dts_config::{Config, IpPrefix, MacAddr, PortConfig};
use dts_core::key::Addr;
use dts_core::wire::{Mac, nd};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// What the kernel would not do, and the configuration key that asked for it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct TwinError {
    /// The key, as `ports.wire.host.interface`.
    pub path: String,
    /// Why not, in one line.
    pub reason: String,
}

impl TwinError {
    pub(crate) fn new(path: &str, reason: impl std::fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// One of the two twins.
struct Twin<'a> {
    key: &'static str,
    interface: &'a str,
    config: &'a PortConfig,
    /// The address that it must bear, where that is ours to say.
    mac: Option<MacAddr>,
    vips: Vec<IpAddr>,
    ipv6: Ipv6,
}

/// What becomes of IPv6 on a twin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    /// Nothing is configured: the kernel must not speak it.
    Off,
    /// The kernel makes the link-local address out of the twin's own MAC.
    On,
    /// This is the link-local address. The wire twins of all nodes bear the cluster's
    /// MAC, and what the kernel would make of it would be the same address everywhere.
    LinkLocal(Addr),
}

/// Whether the wire carries IPv6.
fn wire_has_ipv6(config: &Config) -> bool {
    let host = &config.ports.wire.host;
    config.services.iter().any(|s| s.vip.is_ipv6())
        || host.addresses.iter().any(|a| a.address.is_ipv6())
}

/// What was set up and does not go away with the twins themselves.
#[derive(Debug)]
pub struct Twins {
    handle: Handle,
    policy: bool,
}

/// Sets the kernel's side of both twins up, as far as the configuration names
/// interfaces. Whatever an earlier run has left is replaced. `wire_mac` is the
/// address of the wire's NIC. Needs a tokio runtime that goes on running.
///
/// # Errors
/// The first thing that the kernel refused.
pub async fn set_up(config: &Config, wire_mac: Mac) -> Result<Twins, TwinError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|e| TwinError::new("ports.wire.host.interface", format!("netlink: {e}")))?;
    tokio::spawn(connection);
    let mut twins = Twins {
        handle,
        policy: false,
    };
    match twins.set_up(config, wire_mac).await {
        Ok(()) => Ok(twins),
        Err(error) => {
            twins.tear_down().await;
            Err(error)
        }
    }
}

impl Twins {
    async fn set_up(&mut self, config: &Config, wire_mac: Mac) -> Result<(), TwinError> {
        let mut vips: Vec<IpAddr> = Vec::new();
        for service in &config.services {
            if !vips.contains(&service.vip) {
                vips.push(service.vip);
            }
        }
        let (wire, link) = (&config.ports.wire, &config.ports.link);
        let on_wire = if wire_has_ipv6(config) {
            Ipv6::LinkLocal(nd::link_local(wire_mac))
        } else {
            Ipv6::Off
        };
        let on_link = if link.host.addresses.iter().any(|a| a.address.is_ipv6()) {
            Ipv6::On
        } else {
            Ipv6::Off
        };
        let mac = Some(config.cluster.host_mac());
        let ports = [
            ("ports.wire.host", wire, mac, vips, on_wire),
            ("ports.link.host", link, None, Vec::new(), on_link),
        ];
        for (key, port, mac, vips, ipv6) in ports {
            let Some(interface) = port.host.interface.as_deref() else {
                continue;
            };
            let twin = Twin {
                key,
                interface,
                config: port,
                mac,
                vips,
                ipv6,
            };
            let index = self.configure(&twin).await?;
            if mac.is_some() {
                self.policy = true;
                let fail = |e| TwinError::new(&format!("{key}.interface"), format!("routing: {e}"));
                routes::set_up(&self.handle, index, config)
                    .await
                    .map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Takes back what the end of the interfaces does not.
    pub async fn tear_down(self) {
        if self.policy
            && let Err(error) = routes::remove_rules(&self.handle).await
        {
            tracing::warn!(%error, "routing rules are left behind");
        }
    }

    async fn configure(&self, twin: &Twin<'_>) -> Result<u32, TwinError> {
        let key = format!("{}.interface", twin.key);
        let fail = |e: rtnetlink::Error| TwinError::new(&key, format!("{}: {e}", twin.interface));
        let (index, mac) = self.find(twin.interface).await.map_err(fail)?;
        let refused = |reason| TwinError::new(&key, reason);
        sysctls(twin.interface, twin.ipv6).map_err(refused)?;
        let mut link = LinkUnspec::new_with_index(index)
            .mtu(u32::from(twin.config.mtu))
            .up();
        if let Some(wanted) = twin.mac.filter(|m| mac.as_deref() != Some(&m.0)) {
            link = link.address(wanted.0.to_vec());
        }
        self.handle
            .link()
            .change(link.build())
            .execute()
            .await
            .map_err(fail)?;
        // The node's own addresses come first: the kernel prefers them as source.
        let own = twin.config.host.addresses.iter().enumerate();
        for (i, prefix) in own {
            let path = format!("{}.addresses.{i}", twin.key);
            let fail = |e| TwinError::new(&path, format!("{}: {e}", twin.interface));
            self.address(index, *prefix, Purpose::Own)
                .await
                .map_err(fail)?;
        }
        if let Ipv6::LinkLocal(address) = twin.ipv6 {
            let prefix = IpPrefix {
                address: address.ip(),
                length: 64,
            };
            self.address(index, prefix, Purpose::Own)
                .await
                .map_err(fail)?;
        }
        for &address in &twin.vips {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let prefix = IpPrefix { address, length };
            self.address(index, prefix, Purpose::Vip)
                .await
                .map_err(fail)?;
        }
        Ok(index)
    }

    async fn find(&self, name: &str) -> Result<(u32, Option<Vec<u8>>), rtnetlink::Error> {
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let link = links
            .try_next()
            .await?
            .ok_or(rtnetlink::Error::RequestFailed)?;
        let mac = link.attributes.into_iter().find_map(|a| match a {
            LinkAttribute::Address(mac) => Some(mac),
            _ => None,
        });
        Ok((link.header.index, mac))
    }

    async fn address(
        &self,
        index: u32,
        prefix: IpPrefix,
        purpose: Purpose,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = self
            .handle
            .address()
            .add(index, prefix.address, prefix.length);
        if prefix.address.is_ipv6() {
            let attributes = &mut request.message_mut().attributes;
            // Nobody else has it, or all nodes have it on purpose: asking would only
            // keep the address from being used for a second.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            // IPv6 prefers as source the address that has most in common with the
            // destination (RFC 6724, rule 8), which a VIP would often be; a deprecated
            // one it takes last (rule 3). Sockets bound to it do not notice.
            let mut life = CacheInfo::default();
            life.ifa_valid = u32::MAX;
            life.ifa_preferred = match purpose {
                Purpose::Own => u32::MAX,
                Purpose::Vip => 0,
            };
            attributes.push(AddressAttribute::CacheInfo(life));
        }
        request.replace().execute().await
    }
}

/// What an address is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// The node's own.
    Own,
    /// A service's; never the source of what the host begins.
    Vip,
}

/// Settings of an interface under `/proc/sys/net`, with the reason for each.
const SETTINGS: [(&str, &str); 3] = [
    // Replayed packets come from wherever clients are.
    ("ipv4/conf/IF/rp_filter", "0"),
    // A twin answers for its own addresses only, not for the other twin's.
    ("ipv4/conf/IF/arp_ignore", "1"),
    // ARP requests go out from the node's own address, never from a VIP.
    ("ipv4/conf/IF/arp_announce", "2"),
];

/// Without an IPv6 address there is no neighbour discovery, no MLD and no address
/// from a router: none belongs on the wire under the cluster's MAC unasked.
const IPV6_OFF: (&str, &str) = ("ipv6/conf/IF/disable_ipv6", "1");

/// In this order, after [`IPV6_OFF`], which takes away what the kernel or an earlier
/// run has made.
const IPV6_ON: [(&str, &str); 6] = [
    // Addresses and routes are the configuration's, never a router's word.
    ("ipv6/conf/IF/accept_ra", "0"),
    ("ipv6/conf/IF/autoconf", "0"),
    ("ipv6/conf/IF/router_solicitations", "0"),
    // Every node has the VIPs: duplicates are meant.
    ("ipv6/conf/IF/accept_dad", "0"),
    // No unasked advertisement, which would move a VIP to this node.
    ("ipv6/conf/IF/ndisc_notify", "0"),
    ("ipv6/conf/IF/disable_ipv6", "0"),
];

/// Makes the kernel form no link-local address (`IN6_ADDR_GEN_MODE_NONE`).
const NO_LINK_LOCAL: (&str, &str) = ("ipv6/conf/IF/addr_gen_mode", "1");

/// What [`set_up`] leaves behind under `/proc/sys/net`, as far as the configuration names
/// interfaces: names and values.
#[must_use]
pub fn expected(config: &Config) -> Vec<(String, &'static str)> {
    let ports = &config.ports;
    let has_ipv6 = |own: &[IpPrefix]| own.iter().any(|a| a.address.is_ipv6());
    let twins = [
        (&ports.wire.host, wire_has_ipv6(config), true),
        (
            &ports.link.host,
            has_ipv6(&ports.link.host.addresses),
            false,
        ),
    ];
    let mut all = Vec::new();
    for (host, ipv6, is_wire) in twins {
        let Some(interface) = host.interface.as_deref() else {
            continue;
        };
        let mut settings = SETTINGS.to_vec();
        if ipv6 {
            settings.extend(IPV6_ON);
            settings.extend(is_wire.then_some(NO_LINK_LOCAL));
        } else if Path::new("/proc/sys/net/ipv6").exists() {
            settings.push(IPV6_OFF);
        }
        let named = |(name, value): (&str, &'static str)| (name.replace("IF", interface), value);
        all.extend(settings.into_iter().map(named));
    }
    if !all.is_empty() {
        all.push((ALL_RP_FILTER.into(), "0"));
    }
    all
}

/// The kernel applies the stricter one of an interface's and this.
const ALL_RP_FILTER: &str = "ipv4/conf/all/rp_filter";

fn sysctls(interface: &str, ipv6: Ipv6) -> Result<(), String> {
    let set = |(name, value): (&str, &str)| write(&name.replace("IF", interface), value);
    write(ALL_RP_FILTER, "0")?;
    SETTINGS.into_iter().try_for_each(set)?;
    match set(IPV6_OFF) {
        // A kernel without IPv6 has nothing to switch off.
        Err(_) if ipv6 == Ipv6::Off && !Path::new("/proc/sys/net/ipv6").exists() => Ok(()),
        result => result,
    }?;
    if matches!(ipv6, Ipv6::LinkLocal(_)) {
        set(NO_LINK_LOCAL)?;
    }
    if ipv6 != Ipv6::Off {
        IPV6_ON.into_iter().try_for_each(set)?;
    }
    Ok(())
}

fn write(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).or_else(|e| {
        // What is right already need not be writable.
        let is = fs::read_to_string(&path).unwrap_or_default();
        if is.trim() == value {
            Ok(())
        } else {
            Err(format!("{path}: {e}"))
        }
    })
}
