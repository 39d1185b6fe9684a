//! Plain values about a port.

use std::mem::MaybeUninit;

use dpdk_sys as sys;

/// Offload bits of `PortConf`, as DPDK defines them.
pub mod offload {
    use dpdk_sys as sys;

    /// Receive: verify IPv4 header checksums.
    pub const RX_IPV4_CKSUM: u64 = sys::DTS_ETH_RX_OFFLOAD_IPV4_CKSUM;
    /// Receive: verify TCP checksums.
    pub const RX_TCP_CKSUM: u64 = sys::DTS_ETH_RX_OFFLOAD_TCP_CKSUM;
    /// Receive: verify UDP checksums.
    pub const RX_UDP_CKSUM: u64 = sys::DTS_ETH_RX_OFFLOAD_UDP_CKSUM;
    /// Receive: frames larger than a buffer come in several segments.
    pub const RX_SCATTER: u64 = sys::DTS_ETH_RX_OFFLOAD_SCATTER;
    /// Receive: several TCP segments may come as one packet, see
    /// [`Mbuf::segment_size`](crate::Mbuf::segment_size).
    pub const RX_TCP_LRO: u64 = sys::DTS_ETH_RX_OFFLOAD_TCP_LRO;
    /// Receive: the device takes VLAN tags off.
    pub const RX_VLAN_STRIP: u64 = sys::DTS_ETH_RX_OFFLOAD_VLAN_STRIP;
    /// Receive: the RSS hash comes with the packet.
    pub const RX_RSS_HASH: u64 = sys::DTS_ETH_RX_OFFLOAD_RSS_HASH;
    /// Transmit: packets of several segments.
    pub const TX_MULTI_SEGS: u64 = sys::DTS_ETH_TX_OFFLOAD_MULTI_SEGS;
    /// Transmit: fill in IPv4 header checksums.
    pub const TX_IPV4_CKSUM: u64 = sys::DTS_ETH_TX_OFFLOAD_IPV4_CKSUM;
    /// Transmit: fill in TCP checksums.
    pub const TX_TCP_CKSUM: u64 = sys::DTS_ETH_TX_OFFLOAD_TCP_CKSUM;
    /// Transmit: fill in UDP checksums.
    pub const TX_UDP_CKSUM: u64 = sys::DTS_ETH_TX_OFFLOAD_UDP_CKSUM;
    /// Transmit: cut large packets into TCP segments.
    pub const TX_TCP_TSO: u64 = sys::DTS_ETH_TX_OFFLOAD_TCP_TSO;
    /// Transmit: put VLAN tags in.
    pub const TX_VLAN_INSERT: u64 = sys::DTS_ETH_TX_OFFLOAD_VLAN_INSERT;
}

/// Hash types of [`DevInfo::rss_types`], as DPDK defines them.
pub mod rss {
    use dpdk_sys as sys;

    /// Addresses and ports of TCP over IPv4.
    pub const TCP_V4: u64 = sys::DTS_ETH_RSS_NONFRAG_IPV4_TCP;
    /// Addresses and ports of TCP over IPv6.
    pub const TCP_V6: u64 = sys::DTS_ETH_RSS_NONFRAG_IPV6_TCP;
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevInfo {
    /// The driver's name, as `net_tap`.
    pub driver: String,
    /// Receive queues that it can have.
    pub max_rx_queues: u16,
    /// Transmit queues that it can have.
    pub max_tx_queues: u16,
    /// Receive offloads ([`offload`] `RX_` bits and others of DPDK's).
    pub rx_offloads: u64,
    /// Transmit offloads.
    pub tx_offloads: u64,
    /// Entries of its RSS redirection table, 0 without one.
    pub reta_size: u16,
    /// Bytes of its RSS key, 0 where it has none or does not say (40 then).
    pub rss_key_bytes: u8,
    /// RSS hash types (`RTE_ETH_RSS_*`), 0 without RSS.
    pub rss_types: u64,
    /// Largest MTU in bytes; 65535 where the driver states no limit. A TAP takes
    /// no more than 1504.
    pub max_mtu: u16,
    /// Kernel interface index, where it stands on one.
    pub if_index: Option<u32>,
}

impl DevInfo {
    pub(super) fn new(raw: &sys::rte_eth_dev_info) -> Self {
        DevInfo {
            driver: super::text(raw.driver_name),
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            rx_offloads: raw.rx_offload_capa,
            tx_offloads: raw.tx_offload_capa,
            reta_size: raw.reta_size,
            rss_key_bytes: raw.hash_key_size,
            rss_types: raw.flow_type_rss_offloads,
            max_mtu: max_mtu(raw),
            if_index: (raw.if_index != 0).then_some(raw.if_index),
        }
    }
}

/// The largest MTU that `rte_eth_dev_configure` accepts. A driver may state a
/// frame length only; DPDK then counts Ethernet header and CRC off.
fn max_mtu(raw: &sys::rte_eth_dev_info) -> u16 {
    const HEADER_AND_CRC: u32 = 18;
    if raw.max_mtu != u16::MAX && raw.max_rx_pktlen > u32::from(raw.max_mtu) {
        return raw.max_mtu;
    }
    let by_frame = raw.max_rx_pktlen.saturating_sub(HEADER_AND_CRC);
    raw.max_mtu.min(u16::try_from(by_frame).unwrap_or(u16::MAX))
}

/// How a port is to be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConf {
    /// Receive queues, at least 1.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors per receive queue; brought into the device's limits.
    pub rx_desc: u16,
    /// Descriptors per transmit queue; brought into the device's limits.
    pub tx_desc: u16,
    /// MTU in bytes (the IP packet, without the Ethernet header).
    pub mtu: u16,
    /// RSS key, of the device's length; `None` for the driver's own. Used only
    /// with several receive queues on a device with RSS.
    pub rss_key: Option<Vec<u8>>,
    /// Receive offloads wanted; those that the device lacks are left out.
    pub rx_offloads: u64,
    /// Transmit offloads wanted; those that the device lacks are left out.
    pub tx_offloads: u64,
    /// Leave the MTU of what the device stands on as it is. Some drivers know of
    /// no frames above 1500 bytes and carry them all the same.
    pub keep_mtu: bool,
    /// Receive interrupts, for [`RxQueue::event_fd`](crate::RxQueue::event_fd).
    pub rx_interrupts: bool,
}

impl Default for PortConf {
    /// One queue each way, 1024 descriptors, MTU 1500, receive checksums
    /// verified and several segments allowed where the device can.
    fn default() -> Self {
        use offload::{RX_IPV4_CKSUM, RX_SCATTER, RX_TCP_CKSUM, TX_MULTI_SEGS};
        PortConf {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: 1500,
            rss_key: None,
            rx_offloads: RX_IPV4_CKSUM | RX_TCP_CKSUM | RX_SCATTER,
            tx_offloads: TX_MULTI_SEGS,
            keep_mtu: false,
            rx_interrupts: false,
        }
    }
}

/// What a port was configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// Descriptors per receive queue.
    pub rx_desc: u16,
    /// Descriptors per transmit queue.
    pub tx_desc: u16,
    /// True if RSS spreads packets over the receive queues.
    pub rss: bool,
    /// Receive offloads that are on.
    pub rx_offloads: u64,
    /// Transmit offloads that are on.
    pub tx_offloads: u64,
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// True if it is up.
    pub up: bool,
    /// Its speed in Mbit/s, where the driver knows it.
    pub mbps: Option<u32>,
}

/// A port's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that the device dropped because no descriptor was free.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets not received because the pool was empty.
    pub rx_nombuf: u64,
}

impl PortStats {
    pub(super) fn new(raw: &sys::rte_eth_stats) -> Self {
        PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_nombuf: raw.rx_nombuf,
        }
    }
}

/// DPDK's structure for `conf`, cut to what the device can do. The RSS key is
/// left to the caller, since it is a pointer.
pub(super) fn plan(
    conf: &PortConf,
    info: &sys::rte_eth_dev_info,
) -> Result<(sys::rte_eth_conf, Configured), String> {
    for (what, wanted, has) in [
        ("receive", conf.rx_queues, info.max_rx_queues),
        ("transmit", conf.tx_queues, info.max_tx_queues),
    ] {
        if wanted == 0 || wanted > has {
            return Err(format!("{wanted} {what} queues, and it has 1 to {has}"));
        }
    }
    let (min, max) = (info.min_mtu, max_mtu(info));
    if conf.mtu < min || conf.mtu > max {
        return Err(format!("an MTU of {}, and it can {min} to {max}", conf.mtu));
    }
    let types = sys::DTS_ETH_RSS_IPV4
        | sys::DTS_ETH_RSS_NONFRAG_IPV4_TCP
        | sys::DTS_ETH_RSS_IPV6
        | sys::DTS_ETH_RSS_NONFRAG_IPV6_TCP;
    let rss_types = types & info.flow_type_rss_offloads;
    let rss = conf.rx_queues > 1 && rss_types != 0;
    if let (true, Some(key)) = (rss, &conf.rss_key) {
        // DPDK's default of 40 bytes: drivers that state no length read as many
        // whatever the key's own length is.
        let need = match info.hash_key_size {
            0 => 40,
            stated => usize::from(stated),
        };
        if key.len() != need {
            return Err(format!(
                "an RSS key of {} bytes, and it takes {need}",
                key.len()
            ));
        }
    }
    let hash = if rss { offload::RX_RSS_HASH } else { 0 };
    let done = Configured {
        rx_desc: conf.rx_desc,
        tx_desc: conf.tx_desc,
        rss,
        rx_offloads: (conf.rx_offloads | hash) & info.rx_offload_capa,
        tx_offloads: conf.tx_offloads & info.tx_offload_capa,
    };
    // SAFETY: plain C data, for which all zeroes mean "default".
    let mut raw: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
    raw.rxmode.mtu = conf.mtu.into();
    raw.rxmode.mq_mode = if rss {
        sys::DTS_ETH_MQ_RX_RSS
    } else {
        sys::DTS_ETH_MQ_RX_NONE
    };
    raw.rxmode.offloads = done.rx_offloads;
    raw.txmode.offloads = done.tx_offloads;
    raw.rx_adv_conf.rss_conf.rss_hf = if rss { rss_types } else { 0 };
    raw.intr_conf.set_rxq(conf.rx_interrupts.into());
    Ok((raw, done))
}
