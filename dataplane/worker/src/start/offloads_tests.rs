use super::*;
use dts_config::Config;

fn info(driver: &str, rx: u64, tx: u64) -> DevInfo {
    DevInfo {
        driver: driver.into(),
        max_rx_queues: 1,
        max_tx_queues: 1,
        rx_offloads: rx,
        tx_offloads: tx,
        reta_size: 0,
        rss_key_bytes: 0,
        rss_types: 0,
        max_mtu: 9216,
        if_index: None,
    }
}

const ALL: u64 = u64::MAX;

fn config(change: impl Fn(&mut Config)) -> Config {
    let mut c = dts_config::parse(
        "node: 1
cluster:
  name: test
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:5e:00:00:64
  members: [{ id: 1, name: a, link: 10.77.1.1 }]
services: []
ports:
  wire: { device: a, host: { device: b } }
  link: { device: c, host: { device: d } }
workers: { cores: [0] }
",
        "t.yaml",
    )
    .unwrap();
    change(&mut c);
    c
}

/// Wire and link, then their twins, as `[wire, wire_host, link, link_host]`.
fn plans(nic: DevInfo, twin: DevInfo, change: impl Fn(&mut Config)) -> (Plan, Plan) {
    let infos = [nic.clone(), twin.clone(), nic, twin];
    let [wire, wire_host, ..] = plan(&config(change), &infos);
    (wire, wire_host)
}

#[test]
fn a_capable_pair_leaves_everything_to_the_nic() {
    let (wire, twin) = plans(
        info("net_ixgbe", ALL, ALL),
        info("net_virtio_user", ALL, ALL),
        |_| {},
    );
    assert_eq!(
        twin.rx,
        CHECKSUMS | offload::RX_TCP_LRO | offload::RX_SCATTER
    );
    assert!(twin.large && twin.tx == 0);
    assert_eq!(wire.tx, SENT_SEGMENTS);
    assert_eq!(wire.rx, offload::RX_IPV4_CKSUM | offload::RX_TCP_CKSUM);
}

#[test]
fn nothing_is_asked_of_a_nic_that_gets_finished_frames() {
    for twin in [info("net_tap", ALL, ALL), info("net_virtio_user", 0, 0)] {
        let (wire, twin) = plans(info("net_ixgbe", ALL, ALL), twin, |_| {});
        assert_eq!((twin.rx, twin.large, wire.tx), (0, false, 0));
    }
    let none = |c: &mut Config| c.ports.wire.host.offloads = HostOffloads::None;
    let (wire, twin) = plans(
        info("net_ixgbe", ALL, ALL),
        info("net_virtio_user", ALL, ALL),
        none,
    );
    assert_eq!((twin.rx, twin.large, wire.tx), (0, false, 0));
}

#[test]
fn what_is_configured_off_is_done_in_software() {
    let (wire, twin) = plans(
        info("net_ixgbe", ALL, ALL),
        info("net_virtio_user", ALL, ALL),
        |c| c.ports.wire.offloads = Offloads::None,
    );
    assert!(twin.large);
    assert_eq!((wire.rx, wire.tx), (0, offload::TX_MULTI_SEGS));
    let configured = Configured {
        rx_desc: 0,
        tx_desc: 0,
        rss: false,
        rx_offloads: wire.rx,
        tx_offloads: wire.tx,
    };
    let finish = wire.finish(1500, None, &configured);
    assert_eq!((finish.max, finish.segments), (1514, true));
    assert!(!finish.tso && !finish.checksum);
    assert_eq!(
        wire.report(Port::Wire, &configured, true),
        [
            ("rx_checksum", "software"),
            ("tx_checksum", "software"),
            ("tx_tso", "software"),
            ("vlan_strip", "software"),
            ("vlan_insert", "software"),
        ]
    );
    let checksum = |c: &mut Config| c.ports.wire.host.offloads = HostOffloads::Checksum;
    let (wire, twin) = plans(
        info("net_ixgbe", ALL, ALL),
        info("net_virtio_user", ALL, ALL),
        checksum,
    );
    assert_eq!((twin.rx, twin.large), (CHECKSUMS, false));
    assert_eq!(wire.tx, SENT_CHECKSUMS);
}

#[test]
fn a_nic_without_segmentation_gets_segments_and_fills_in_their_checksums() {
    let some = SENT_CHECKSUMS | offload::TX_MULTI_SEGS;
    let (wire, _) = plans(
        info("net_e1000_em", 0, some),
        info("net_virtio_user", ALL, ALL),
        |_| {},
    );
    assert_eq!(wire.tx, some);
}

#[test]
fn tags_are_left_to_devices_that_do_it_for_every_frame() {
    let vlan = |c: &mut Config| c.ports.wire.vlan = Some(7);
    for (driver, inserts) in [
        ("net_ixgbe", true),
        ("net_af_packet", true),
        ("net_virtio", false),
    ] {
        let (wire, _) = plans(info(driver, ALL, ALL), info("net_tap", ALL, ALL), vlan);
        assert_ne!(wire.rx & offload::RX_VLAN_STRIP, 0, "{driver}");
        assert_eq!(wire.tx & offload::TX_VLAN_INSERT != 0, inserts, "{driver}");
        // A virtual NIC that is asked for checksums leaves them out.
        assert_eq!(wire.rx & offload::RX_TCP_CKSUM != 0, driver == "net_ixgbe");
    }
}
