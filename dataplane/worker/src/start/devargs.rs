//! What a device string says, and what is added to it.

use std::fmt::Write;

use dts_core::wire::Mac;

/// Kinds of devices that differ in what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A NIC on the PCI bus.
    Pci,
    /// A raw socket on a kernel interface.
    AfPacket,
    /// A TAP interface.
    Tap,
    /// virtio-user, over vhost-net or vhost-user.
    VirtioUser,
    /// Anything else: capture files, memory.
    Other,
}

/// Prefixes of virtual devices' names, which are their drivers' names.
const VDEVS: [(&str, Kind); 3] = [
    ("net_af_packet", Kind::AfPacket),
    ("net_tap", Kind::Tap),
    ("net_virtio_user", Kind::VirtioUser),
];

impl Kind {
    /// By the string of the configuration.
    pub(super) fn of(device: &str) -> Self {
        let name = name(device);
        // Only addresses on a bus have a colon before the first comma.
        if name.contains(':') {
            return Kind::Pci;
        }
        let known = VDEVS.iter().find(|(prefix, _)| name.starts_with(prefix));
        known.map_or(Kind::Other, |&(_, kind)| kind)
    }

    /// By the driver that took it. A NIC's driver is none of the virtual ones.
    pub(super) fn of_driver(driver: &str) -> Self {
        const MEMORY: [&str; 6] = [
            "net_pcap",
            "net_ring",
            "net_null",
            "net_memif",
            "net_vhost",
            "net_af_xdp",
        ];
        if MEMORY.contains(&driver) {
            return Kind::Other;
        }
        let known = VDEVS.iter().find(|(name, _)| *name == driver);
        known.map_or(Kind::Pci, |&(_, kind)| kind)
    }

    /// True if frames come from a network of others, with addresses of theirs.
    pub(super) fn is_network(self) -> bool {
        matches!(self, Kind::Pci | Kind::AfPacket | Kind::Tap)
    }
}

/// The name of a device.
fn name(device: &str) -> &str {
    device.split(',').next().unwrap_or_default()
}

/// The value of an argument of a device string.
pub(super) fn argument<'a>(device: &'a str, key: &str) -> Option<&'a str> {
    let mut arguments = device.split(',').skip(1);
    arguments.find_map(|a| a.trim().strip_prefix(key)?.strip_prefix('='))
}

/// The string by which a host twin is attached: with an address and enough
/// queues, where the driver takes these and the string says nothing of them.
pub(super) fn twin(device: &str, mac: Mac, queues: u16) -> String {
    let mut text = device.to_owned();
    let kind = Kind::of(device);
    if matches!(kind, Kind::Tap | Kind::VirtioUser) && argument(device, "mac").is_none() {
        // Writing to a string cannot fail.
        let _ = write!(text, ",mac={}", Colons(mac));
    }
    // The kernel's back end can always have several queues; others need not.
    let kernel = argument(device, "path").is_some_and(|p| p.ends_with("vhost-net"));
    if kind == Kind::VirtioUser && kernel && queues > 1 && argument(device, "queues").is_none() {
        let _ = write!(text, ",queues={queues}");
    }
    text
}

/// The string by which a NIC is attached: `net_af_packet` with frames in its ring that
/// hold those of this MTU, where the string says nothing of them. `buffer` is the
/// size of a packet buffer, a multiple of 1024, which a frame must not exceed.
pub(super) fn nic(device: &str, mtu: u16, buffer: u16) -> String {
    let mut text = device.to_owned();
    let says = argument(device, "framesz").is_some() || argument(device, "blocksz").is_some();
    if Kind::of(device) == Kind::AfPacket && mtu > 1500 && !says {
        // A block is full of frames and a multiple of a page.
        let block = u32::from(buffer) * 4;
        let _ = write!(text, ",framesz={buffer},blocksz={block}");
    }
    text
}

/// An address as drivers and operators write it.
pub(super) struct Colons(pub(super) Mac);

impl std::fmt::Display for Colons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (device, kind) in [
            ("0000:01:00.0", Kind::Pci),
            ("01:00.0,rxq_cqe=1", Kind::Pci),
            ("net_af_packet0,iface=a:b", Kind::AfPacket),
            ("net_tap1", Kind::Tap),
            ("net_virtio_user0,path=/dev/vhost-net", Kind::VirtioUser),
            ("net_pcap0,rx_pcap=x", Kind::Other),
        ] {
            assert_eq!(Kind::of(device), kind, "{device}");
        }
        assert_eq!(Kind::of_driver("net_ixgbe"), Kind::Pci);
        assert_eq!(Kind::of_driver("net_virtio_user"), Kind::VirtioUser);
        assert_eq!(Kind::of_driver("net_tap"), Kind::Tap);
        assert_eq!(Kind::of_driver("net_pcap"), Kind::Other);
    }

    #[test]
    fn rings_hold_jumbo_frames() {
        for (device, mtu, is) in [
            ("net_af_packet0,iface=a", 1500, "net_af_packet0,iface=a"),
            (
                "net_af_packet0,iface=a",
                9000,
                "net_af_packet0,iface=a,framesz=9216,blocksz=36864",
            ),
            (
                "net_af_packet0,iface=a,framesz=16384",
                9000,
                "net_af_packet0,iface=a,framesz=16384",
            ),
            ("0000:01:00.0", 9000, "0000:01:00.0"),
        ] {
            assert_eq!(nic(device, mtu, 9216), is);
        }
    }

    #[test]
    fn twins_get_what_they_lack() {
        const MAC: Mac = [2, 0, 0x5e, 0, 0, 0x64];
        for (device, is) in [
            (
                "net_tap0,iface=dtsw",
                "net_tap0,iface=dtsw,mac=02:00:5e:00:00:64",
            ),
            ("net_tap0,mac=fixed", "net_tap0,mac=fixed"),
            (
                "net_virtio_user0,path=/dev/vhost-net",
                "net_virtio_user0,path=/dev/vhost-net,mac=02:00:5e:00:00:64,queues=2",
            ),
            (
                "net_virtio_user0,path=/tmp/s,mac=02:00:00:00:00:01",
                "net_virtio_user0,path=/tmp/s,mac=02:00:00:00:00:01",
            ),
            ("net_ring0", "net_ring0"),
        ] {
            assert_eq!(twin(device, MAC, 2), is);
        }
    }
}
