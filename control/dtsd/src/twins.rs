//! The kernel's side of the host twins: addresses, and a stack that never waits
//! for ARP and never gives the VIPs away.

use crate::routes;
use dts_config::{Config, IpPrefix, MacAddr, PortConfig};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use std::fs;
use std::net::IpAddr;

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
}

/// What was set up and does not go away with the twins themselves.
#[derive(Debug)]
pub struct Twins {
    handle: Handle,
    policy: bool,
}

/// Sets the kernel's side of both twins up, as far as the configuration names
/// interfaces. Whatever an earlier run has left is replaced. Needs a tokio
/// runtime that goes on running.
///
/// # Errors
/// The first thing that the kernel refused.
pub async fn set_up(config: &Config) -> Result<Twins, TwinError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|e| TwinError::new("ports.wire.host.interface", format!("netlink: {e}")))?;
    tokio::spawn(connection);
    let mut twins = Twins {
        handle,
        policy: false,
    };
    match twins.set_up(config).await {
        Ok(()) => Ok(twins),
        Err(error) => {
            twins.tear_down().await;
            Err(error)
        }
    }
}

impl Twins {
    async fn set_up(&mut self, config: &Config) -> Result<(), TwinError> {
        let mut vips: Vec<IpAddr> = Vec::new();
        for service in &config.services {
            if !vips.contains(&service.vip) {
                vips.push(service.vip);
            }
        }
        let ports = [
            (
                "ports.wire.host",
                &config.ports.wire,
                Some(config.cluster.mac),
                vips,
            ),
            ("ports.link.host", &config.ports.link, None, Vec::new()),
        ];
        for (key, port, mac, vips) in ports {
            let Some(interface) = port.host.interface.as_deref() else {
                continue;
            };
            let twin = Twin {
                key,
                interface,
                config: port,
                mac,
                vips,
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
        sysctls(twin.interface).map_err(|reason| TwinError::new(&key, reason))?;
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
        for (i, prefix) in twin.config.host.addresses.iter().enumerate() {
            let path = format!("{}.addresses.{i}", twin.key);
            let fail = |e| TwinError::new(&path, format!("{}: {e}", twin.interface));
            self.address(index, *prefix).await.map_err(fail)?;
        }
        for vip in &twin.vips {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            self.address(
                index,
                IpPrefix {
                    address: *vip,
                    length,
                },
            )
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

    async fn address(&self, index: u32, prefix: IpPrefix) -> Result<(), rtnetlink::Error> {
        let request = self
            .handle
            .address()
            .add(index, prefix.address, prefix.length);
        request.replace().execute().await
    }
}

/// Settings of an interface under `/proc/sys/net`, with the reason for each.
const SETTINGS: [(&str, &str); 4] = [
    // No neighbour discovery and no address from a router: neither belongs on
    // the wire under the cluster's MAC.
    ("ipv6/conf/IF/disable_ipv6", "1"),
    // Replayed packets come from wherever clients are.
    ("ipv4/conf/IF/rp_filter", "0"),
    // A twin answers for its own addresses only, not for the other twin's.
    ("ipv4/conf/IF/arp_ignore", "1"),
    // ARP requests go out from the node's own address, never from a VIP.
    ("ipv4/conf/IF/arp_announce", "2"),
];

fn sysctls(interface: &str) -> Result<(), String> {
    // The kernel applies the stricter one of the interface's and this.
    write("ipv4/conf/all/rp_filter", "0")?;
    for (name, value) in SETTINGS {
        write(&name.replace("IF", interface), value)?;
    }
    Ok(())
}

fn write(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/net/{name}");
    match fs::write(&path, value) {
        // A kernel without IPv6 has nothing to switch off.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && name.starts_with("ipv6/") => Ok(()),
        Err(e) => {
            // What is right already need not be writable.
            let is = fs::read_to_string(&path).unwrap_or_default();
            if is.trim() == value {
                Ok(())
            } else {
                Err(format!("{path}: {e}"))
            }
        }
        Ok(()) => Ok(()),
    }
}
