//! An orderly end of the EAL, in a process of its own.

use dpdk::{Burst, DEFAULT_DATA_ROOM, Eal, Error, Mempool, Ring, hotplug, log};

#[test]
fn ends_when_nothing_is_left() {
    log::set_target(log::Target::Quiet);
    // Without shared files a fixed prefix serves any number of runs at once.
    let options =
        "-l 0 --no-huge --no-shconf --no-telemetry -m 32 --no-pci --file-prefix dpdk-test-cleanup";
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    let eal = Eal::init(&options).unwrap();

    let pool = Mempool::new("pool", 255, 0, DEFAULT_DATA_ROOM, None).unwrap();
    let ring = Ring::new("ring", 16).unwrap();
    let mut burst = Burst::new();
    assert!(pool.alloc_bulk(&mut burst, 16));
    assert_eq!(ring.enqueue_burst(&mut burst), 16);
    let port = hotplug::attach_one("net_null0").unwrap();
    port.close().unwrap();
    drop((port, ring, pool));

    eal.cleanup().unwrap();
    let late = Mempool::new("late", 255, 0, DEFAULT_DATA_ROOM, None);
    assert!(matches!(late, Err(Error::NotRunning)));
    assert!(matches!(
        Eal::init(&options),
        Err(Error::AlreadyInitialised)
    ));
}
