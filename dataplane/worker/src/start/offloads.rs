//! Which offloads are asked for, and who does what.
//!
//! Nothing is asked for that is of no use: a device that only has to pass finished
//! frames on keeps its fastest way to send.

use dpdk::{Configured, DevInfo, offload};
use dts_config::{Config, HostOffloads, Offloads};
use dts_core::frame::Port;
use dts_core::wire::ETH_LEN;

use super::conf;
use super::devargs::Kind;
use crate::offload::Finish;

/// What is done to frames, and by whom.
pub(super) type Report = Vec<(&'static str, &'static str)>;

/// What a port is to be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Receive offloads.
    pub(super) rx: u64,
    /// Transmit offloads.
    pub(super) tx: u64,
    /// Frames come from the own stack that stand for several.
    pub(super) large: bool,
    /// Frames come to this port that need their checksum, or to be cut.
    unfinished: bool,
    /// Frames of several buffers may come to this port.
    pieces: bool,
}

const CHECKSUMS: u64 = offload::RX_TCP_CKSUM | offload::RX_UDP_CKSUM;
const SENT_CHECKSUMS: u64 = offload::TX_TCP_CKSUM | offload::TX_UDP_CKSUM;
/// A NIC that cuts frames writes both headers of each segment.
const SENT_SEGMENTS: u64 = offload::TX_TCP_TSO
    | offload::TX_TCP_CKSUM
    | offload::TX_UDP_CKSUM
    | offload::TX_IPV4_CKSUM
    | offload::TX_MULTI_SEGS;

/// The plans of all ports, by [`Port::index`].
pub(super) fn plan(config: &Config, infos: &[DevInfo; 4]) -> [Plan; 4] {
    let mut plans = [Plan::default(); 4];
    for port in [Port::WireHost, Port::LinkHost] {
        let info = &infos[port.index()];
        let host = conf(config, port).host.offloads;
        let twin = &mut plans[port.index()];
        // Only these drivers can tell what the sender has left to be done. A TAP
        // verifies in software what nobody has asked it to.
        let tells = matches!(info.driver.as_str(), "net_virtio_user" | "net_vhost");
        if !tells || host == HostOffloads::None {
            continue;
        }
        twin.rx = CHECKSUMS & info.rx_offloads;
        if host == HostOffloads::Tso && twin.rx != 0 {
            // The latter's peer sends large frames by an argument of the device's.
            twin.large = info.rx_offloads & offload::RX_TCP_LRO != 0 || info.driver == "net_vhost";
            let large = offload::RX_TCP_LRO | offload::RX_SCATTER;
            twin.rx |= if twin.large {
                large & info.rx_offloads
            } else {
                0
            };
        }
    }
    for port in [Port::Wire, Port::Link] {
        let info = &infos[port.index()];
        let twin = plans[port.twin().index()];
        let conf = conf(config, port);
        let kind = Kind::of_driver(&info.driver);
        let virtio = info.driver == "net_virtio";
        let nic = &mut plans[port.index()];
        nic.unfinished = twin.rx != 0;
        nic.pieces = twin.large;
        if nic.pieces {
            nic.tx |= offload::TX_MULTI_SEGS & info.tx_offloads;
        }
        if conf.offloads == Offloads::None {
            continue;
        }
        // A virtual NIC that is asked for checksums hands over frames without.
        if kind == Kind::Pci && !virtio {
            nic.rx |= (offload::RX_IPV4_CKSUM | offload::RX_TCP_CKSUM) & info.rx_offloads;
        }
        if kind == Kind::Pci && nic.unfinished {
            nic.tx |= SENT_CHECKSUMS & info.tx_offloads;
        }
        if kind == Kind::Pci && twin.large && info.tx_offloads & SENT_SEGMENTS == SENT_SEGMENTS {
            nic.tx |= SENT_SEGMENTS;
        }
        if conf.vlan.is_some() {
            nic.rx |= offload::RX_VLAN_STRIP & info.rx_offloads;
            // virtio inserts in software, and only where a checksum is asked for.
            if !virtio && info.driver != "net_virtio_user" {
                nic.tx |= offload::TX_VLAN_INSERT & info.tx_offloads;
            }
        }
    }
    plans
}

fn by(device: bool) -> &'static str {
    if device { "device" } else { "software" }
}

impl Plan {
    /// What the workers need to know of the configured port.
    pub(super) fn finish(&self, mtu: u16, vlan: Option<u16>, c: &Configured) -> Finish {
        let tx = |bits| c.tx_offloads & bits == bits;
        Finish {
            max: u32::from(mtu) + ETH_LEN as u32,
            vlan,
            inserts: tx(offload::TX_VLAN_INSERT),
            segments: tx(offload::TX_MULTI_SEGS),
            checksum: tx(SENT_CHECKSUMS),
            tso: tx(SENT_SEGMENTS),
        }
    }

    /// Who does what on the configured port, for operators.
    pub(super) fn report(&self, port: Port, c: &Configured, vlan: bool) -> Report {
        let (rx, tx) = (
            |bits| c.rx_offloads & bits == bits,
            |bits| c.tx_offloads & bits == bits,
        );
        let on = |it: bool| if it { "on" } else { "off" };
        if matches!(port, Port::WireHost | Port::LinkHost) {
            return vec![
                ("host_checksum", on(self.rx != 0)),
                ("host_tso", on(self.large)),
            ];
        }
        let needed = |it: bool, device: bool| if it { by(device) } else { "off" };
        vec![
            ("rx_checksum", by(rx(offload::RX_TCP_CKSUM))),
            ("tx_checksum", needed(self.unfinished, tx(SENT_CHECKSUMS))),
            ("tx_tso", needed(self.pieces, tx(SENT_SEGMENTS))),
            ("vlan_strip", needed(vlan, rx(offload::RX_VLAN_STRIP))),
            ("vlan_insert", needed(vlan, tx(offload::TX_VLAN_INSERT))),
        ]
    }
}

#[cfg(test)]
#[path = "offloads_tests.rs"]
mod tests;
