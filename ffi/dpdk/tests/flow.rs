//! Rules and the spread by hash, over devices that need no hardware: a bond hands rules to
//! its members, and takes any while it has none.

use dpdk::{DEFAULT_DATA_ROOM, Eal, Match, Mempool, PortConf, hotplug, rss};

const ALL: [Match; 3] = [
    Match::Source([2, 0, 0, 0, 0, 1]),
    Match::TcpV4(8001),
    Match::TcpV6(8001),
];

#[test]
fn rules_and_spread() {
    let options =
        "-l 0 --no-huge --no-shconf --no-telemetry -m 64 --no-pci --file-prefix dpdk-test-flow";
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    let eal = Eal::init(&options).unwrap();

    let bond = hotplug::attach_one("net_bonding0,mode=1").unwrap();
    let rules: Vec<_> = ALL.iter().map(|&m| bond.drop_rule(m).unwrap()).collect();
    for rule in &rules {
        assert_eq!(rule.hits(), Some(0));
    }
    assert!(bond.drop_rule(Match::TcpV4(0)).is_err());
    let (kept, ended): (Vec<_>, Vec<_>) = rules
        .into_iter()
        .zip([true, false, false])
        .partition(|r| r.1);
    drop(ended);
    bond.close().unwrap();
    // What outlives its device is no rule any more, and harmless.
    assert_eq!(kept[0].0.hits(), None);
    drop(kept);
    drop(bond);

    let null = hotplug::attach_one("net_null0").unwrap();
    for what in ALL {
        let error = null.drop_rule(what).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("net_null0") && error.contains("rule"),
            "{error}"
        );
    }
    let info = null.info().unwrap();
    assert_eq!(info.rss_types & rss::TCP_V4, rss::TCP_V4);
    let pool = Mempool::new("flow", 1023, 32, DEFAULT_DATA_ROOM, None).unwrap();
    let queues = info.max_rx_queues.min(2);
    let done = null
        .configure(&PortConf {
            rx_queues: queues,
            tx_queues: queues,
            rx_desc: 64,
            tx_desc: 64,
            rss_key: Some(vec![1; 40]),
            ..PortConf::default()
        })
        .unwrap();
    assert!(done.rss);
    null.setup_queues(std::slice::from_ref(&pool)).unwrap();
    null.start().unwrap();
    null.spread(128, queues).unwrap();
    // Its table has 128 entries, which no period of 96 or 256 fills.
    for period in [0, 96, 256] {
        assert!(null.spread(period, queues).is_err(), "{period}");
    }
    assert!(null.spread(128, 0).is_err());
    null.detach().unwrap();
    drop(pool);
    eal.cleanup().unwrap();
}
