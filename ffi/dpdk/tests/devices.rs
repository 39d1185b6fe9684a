//! The layer over memory devices. The EAL starts once per process, so this is
//! one test of many checks; it needs neither root nor hugepages.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread;

use dpdk::{
    Burst, DEFAULT_DATA_ROOM, Eal, Error, HEADROOM, HashTable, Mbuf, Mempool, Port, PortConf,
    PortId, Ring, RxChecksum, RxQueue, TxQueue, hotplug, log, signals,
};

fn pool(name: &str, count: u32) -> Mempool {
    Mempool::new(name, count, 32, DEFAULT_DATA_ROOM, None).unwrap()
}

/// A frame with a recognisable number.
fn frame(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    bytes[14..18].copy_from_slice(&Ipv4Addr::from(number).octets());
    bytes
}

fn number(mbuf: &Mbuf) -> u32 {
    u32::from_be_bytes(mbuf.data()[14..18].try_into().unwrap())
}

fn fill(burst: &mut Burst, pool: &Mempool, numbers: std::ops::Range<u32>) {
    for n in numbers {
        burst.push(pool.alloc_from(&frame(n)).unwrap()).unwrap();
    }
}

fn numbers(burst: &Burst) -> Vec<u32> {
    burst.iter().map(number).collect()
}

/// Brings a port up with one queue each way and takes both.
fn up(devargs: &str, pool: &Mempool) -> (Port, RxQueue, TxQueue) {
    let port = hotplug::attach_one(devargs).unwrap();
    port.configure(&PortConf {
        rx_desc: 128,
        tx_desc: 128,
        ..PortConf::default()
    })
    .unwrap();
    port.setup_queues(std::slice::from_ref(pool)).unwrap();
    port.start().unwrap();
    let queues = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    (port, queues.0, queues.1)
}

#[test]
fn all() {
    assert!(matches!(
        Mempool::new("early", 63, 0, 2048, None),
        Err(Error::NotRunning)
    ));
    assert!(matches!(
        hotplug::attach("net_null0"),
        Err(Error::NotRunning)
    ));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    log::set_target(log::Target::Lines(Box::new(move |line| {
        seen.lock().unwrap().push(line.to_owned());
    })));
    // Without shared files a fixed prefix serves any number of runs at once.
    let options =
        "-l 0 --no-huge --no-shconf --no-telemetry -m 64 --no-pci --file-prefix dpdk-test-devices";
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    let eal = Eal::init(&options).unwrap();
    assert!(matches!(
        Eal::init(&options),
        Err(Error::AlreadyInitialised)
    ));
    assert!(
        lines.lock().unwrap().iter().any(|l| l.contains("EAL")),
        "the log is routed"
    );
    log::set_target(log::Target::Quiet);

    pools();
    rooms();
    segments();
    bursts();
    rings();
    attach_errors();
    ring_loop();
    null_device();
    pcap_devices();
    port_states();
    threads();
    hash_table();

    let kept = pool("kept", 63);
    let stray = kept.alloc().unwrap();
    drop(kept);
    // The pool is gone for its users, but not from under its packet.
    assert_eq!(stray.pkt_len(), 0);
    drop(stray);
    assert!(matches!(eal.cleanup(), Err(Error::InUse(1))));
}

fn hash_table() {
    let key = |n: u32| {
        let mut bytes = [7; 12];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        bytes
    };
    let hash = |n: u32| n.wrapping_mul(0x9e37_79b1);
    let mut table = HashTable::<12>::new("hash", 1024).unwrap();
    assert!(matches!(
        HashTable::<12>::new("hash", 1024),
        Err(Error::HashTable { .. })
    ));
    let added: Vec<u32> = (0..1000)
        .map(|n| table.add(&key(n), hash(n)).unwrap())
        .collect();
    assert_eq!(table.add(&key(5), hash(5)), Some(added[5]));
    // Some are there, most are not.
    let asked: Vec<u32> = (0..64).map(|n| n * 2_000 % 4_001).collect();
    let keys: Vec<_> = asked.iter().map(|&n| key(n)).collect();
    let hashes: Vec<_> = asked.iter().map(|&n| hash(n)).collect();
    let mut found = [7; 64];
    assert!(table.find(&keys, &hashes, &mut found));
    for (n, at) in asked.into_iter().zip(found) {
        let want = added.get(n as usize).map_or(-1, |&p| p as i32);
        assert_eq!(at.max(-1), want, "{n}");
    }
    assert!(!table.find(&keys, &hashes[1..], &mut found));
    assert!(!table.find(&[], &[], &mut []));
}

fn pools() {
    let pool = pool("pools", 127);
    assert_eq!(
        (pool.capacity(), pool.available(), pool.in_use()),
        (127, 127, 0)
    );
    let mut held = Vec::new();
    while let Some(mbuf) = pool.alloc() {
        held.push(mbuf);
    }
    assert_eq!((held.len(), pool.available(), pool.in_use()), (127, 0, 127));
    assert!(pool.alloc_from(b"x").is_none());
    drop(held);
    assert_eq!(pool.in_use(), 0);
    // Too large for a buffer: none, and nothing leaks.
    assert!(pool.alloc_from(&[0; DEFAULT_DATA_ROOM as usize]).is_none());
    assert_eq!(pool.in_use(), 0);
    for (cache, room) in [(600, 2048), (100, 2048), (0, HEADROOM)] {
        let refused = Mempool::new("refused", 127, cache, room, None).unwrap_err();
        assert!(
            refused.to_string().starts_with("packet pool refused: a "),
            "{refused}"
        );
    }
    let same = Mempool::new("pools", 63, 0, 2048, None).unwrap_err();
    assert!(same.to_string().contains("exists"), "{same}");
    // The name is free again after the last handle.
    let second = pool.clone();
    drop(pool);
    assert!(Mempool::new("pools", 63, 0, 2048, None).is_err());
    drop(second);
    Mempool::new("pools", 63, 0, 2048, None).unwrap();

    let big = Mempool::new("big", 31, 0, 65535, None).unwrap();
    let bytes: Vec<u8> = (0..60000u32).map(|i| i as u8).collect();
    let mbuf = big.alloc_from(&bytes).unwrap();
    assert_eq!(
        (mbuf.pkt_len(), mbuf.nb_segs(), mbuf.buf_len()),
        (60000, 1, 65535)
    );
    assert!(mbuf.data() == bytes);
}

fn rooms() {
    let pool = pool("rooms", 63);
    let mut mbuf = pool.alloc_from(b"payload").unwrap();
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (HEADROOM, 2048 - 7));
    mbuf.prepend(4).unwrap().copy_from_slice(b"head");
    mbuf.append(4).unwrap().copy_from_slice(b"tail");
    assert_eq!(mbuf.data(), b"headpayloadtail");
    assert_eq!(mbuf.pkt_len(), 15);
    assert!(mbuf.adj(4) && mbuf.trim(4));
    assert_eq!(mbuf.data(), b"payload");
    assert!(!mbuf.adj(8) && !mbuf.trim(8));
    assert!(mbuf.prepend(HEADROOM + 1).is_none() && mbuf.append(2048).is_none());
    assert_eq!(mbuf.prepend(HEADROOM).unwrap().len(), usize::from(HEADROOM));
    assert_eq!(mbuf.append(2041).unwrap().len(), 2041);
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (0, 0));
    assert_eq!(mbuf.pkt_len(), u32::from(DEFAULT_DATA_ROOM));

    mbuf.set_port(7);
    mbuf.set_tag(0xdead_beef);
    assert_eq!(
        (mbuf.port(), mbuf.tag(), mbuf.rss_hash()),
        (7, 0xdead_beef, None)
    );
    assert_eq!(
        (mbuf.ip_checksum(), mbuf.l4_checksum()),
        (RxChecksum::Unknown, RxChecksum::Unknown)
    );
    for state in [
        RxChecksum::Good,
        RxChecksum::Bad,
        RxChecksum::Partial,
        RxChecksum::Unknown,
    ] {
        mbuf.set_l4_checksum(state);
        assert_eq!(mbuf.l4_checksum(), state);
        assert_eq!(mbuf.ip_checksum(), RxChecksum::Unknown);
    }
    mbuf.prefetch();
    drop(mbuf);
    assert_eq!(pool.in_use(), 0);
}

fn segments() {
    let pool = pool("segments", 63);
    let chained = |pieces: &[&[u8]]| {
        let mut head = pool.alloc_from(pieces[0]).unwrap();
        for piece in &pieces[1..] {
            head.chain(pool.alloc_from(piece).unwrap()).unwrap();
        }
        head
    };
    let mut mbuf = chained(&[b"abc", b"defg", b"hi"]);
    assert_eq!(
        (mbuf.nb_segs(), mbuf.pkt_len(), mbuf.data()),
        (3, 9, &b"abc"[..])
    );
    assert_eq!(mbuf.segments().len(), 3);
    assert_eq!(
        mbuf.segments().collect::<Vec<_>>(),
        [&b"abc"[..], b"defg", b"hi"]
    );
    let mut out = [0; 5];
    assert!(mbuf.copy_out(2, &mut out));
    assert_eq!(&out, b"cdefg");
    assert!(!mbuf.copy_out(5, &mut out) && !mbuf.copy_out(u32::MAX, &mut out));

    assert!(mbuf.pull(2) && mbuf.nb_segs() == 3);
    assert!(mbuf.pull(5));
    assert_eq!(
        (mbuf.data(), mbuf.nb_segs(), pool.in_use()),
        (&b"abcde"[..], 3, 3)
    );
    assert!(mbuf.pull(8));
    assert_eq!(
        (mbuf.data(), mbuf.nb_segs(), pool.in_use()),
        (&b"abcdefgh"[..], 2, 2)
    );
    assert!(!mbuf.pull(10));
    assert!(mbuf.linearize());
    assert_eq!(
        (mbuf.data(), mbuf.nb_segs(), pool.in_use()),
        (&b"abcdefghi"[..], 1, 1)
    );

    let mut large = chained(&[&[1; 2000], &[2; 2000]]);
    assert!(!large.linearize() && !large.pull(2049) && large.pull(2048));
    assert_eq!((large.pkt_len(), large.data().len()), (4000, 2048));
    drop((mbuf, large));
    assert_eq!(pool.in_use(), 0);
}

fn bursts() {
    let pool = pool("bursts", 255);
    let mut burst = Burst::new();
    assert!(burst.is_empty() && burst.pop().is_none());
    fill(&mut burst, &pool, 0..64);
    assert!(burst.is_full() && !pool.alloc_bulk(&mut burst, 1));
    let refused = burst
        .push(pool.alloc_from(&frame(99)).unwrap())
        .unwrap_err();
    assert_eq!(number(&refused), 99);
    drop(refused);
    assert_eq!(number(&burst.pop().unwrap()), 63);
    assert_eq!((burst.len(), burst.room(), pool.in_use()), (63, 1, 63));

    // A drain that is dropped early frees the others.
    let first: Vec<Mbuf> = burst.drain().take(3).collect();
    assert_eq!(first.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((burst.len(), pool.in_use()), (0, 3));
    drop(first);

    let mut other = Burst::new();
    fill(&mut burst, &pool, 0..60);
    fill(&mut other, &pool, 100..110);
    assert_eq!(burst.take_from(&mut other), 4);
    assert_eq!(numbers(&burst)[60..], [100, 101, 102, 103]);
    assert_eq!(numbers(&other), [104, 105, 106, 107, 108, 109]);
    burst.as_mut_slice().swap(0, 63);
    assert_eq!((number(&burst[0]), number(&burst[63])), (103, 0));
    assert_eq!(burst.clear(), 64);
    assert_eq!(burst.clear(), 0);
    assert!(pool.alloc_bulk(&mut burst, 40) && !pool.alloc_bulk(&mut burst, 25));
    assert_eq!((burst.len(), pool.in_use()), (40, 46));
    drop((burst, other));
    assert_eq!(pool.in_use(), 0);
}

fn rings() {
    let pool = pool("rings", 255);
    let mut ring = Ring::new("rings", 100).unwrap();
    assert_eq!((ring.capacity(), ring.len()), (100, 0));
    let producer = ring.producer();
    let mut burst = Burst::new();
    fill(&mut burst, &pool, 0..64);
    burst.as_mut_slice()[5].set_tag(55);
    assert_eq!(producer.enqueue_burst(&mut burst), 64);
    assert!(burst.is_empty());
    fill(&mut burst, &pool, 64..128);
    assert_eq!(producer.enqueue_burst(&mut burst), 36);
    // Full: the rest stays, in order.
    assert_eq!(numbers(&burst), (100..128).collect::<Vec<_>>());
    assert_eq!(producer.enqueue_burst(&mut burst), 0);
    assert_eq!(burst.clear(), 28);
    assert_eq!(ring.dequeue_burst(&mut burst), 64);
    assert_eq!(burst[5].tag(), 55);
    assert_eq!(numbers(&burst), (0..64).collect::<Vec<_>>());
    assert_eq!(ring.dequeue_burst(&mut burst), 0);
    burst.clear();
    assert_eq!((ring.len(), pool.in_use()), (36, 36));
    // What is inside is freed with the last handle.
    drop(ring);
    assert_eq!((producer.len(), pool.in_use()), (36, 36));
    drop(producer);
    assert_eq!(pool.in_use(), 0);
    assert!(Ring::new("zero", 0).is_err());
    let _first = Ring::new("twice", 8).unwrap();
    assert!(Ring::new("twice", 8).is_err());

    // Two producers and a consumer: nothing is lost and each one's order holds.
    let mut ring = Ring::new("threads", 64).unwrap();
    let mut last = [None, None];
    thread::scope(|scope| {
        for base in [0, 1 << 16] {
            let (producer, pool) = (ring.producer(), &pool);
            scope.spawn(move || {
                let mut burst = Burst::new();
                for n in 0..5000 {
                    let mut mbuf = loop {
                        match pool.alloc() {
                            Some(mbuf) => break mbuf,
                            None => thread::yield_now(),
                        }
                    };
                    mbuf.set_tag(base + n);
                    burst.push(mbuf).unwrap();
                    while !burst.is_empty() {
                        producer.enqueue_burst(&mut burst);
                    }
                }
            });
        }
        let mut seen = 0;
        while seen < 10_000 {
            if ring.dequeue_burst(&mut burst) == 0 {
                thread::yield_now();
            }
            for mbuf in burst.drain() {
                let last = &mut last[(mbuf.tag() >> 16) as usize];
                assert!(last.is_none_or(|l| l + 1 == mbuf.tag()));
                *last = Some(mbuf.tag());
                seen += 1;
            }
        }
    });
    assert_eq!(last, [Some(4999), Some((1 << 16) + 4999)]);
    assert_eq!((ring.len(), pool.in_use()), (0, 0));
}

fn attach_errors() {
    for (devargs, says) in [
        ("", "no device name"),
        ("net_nonsense0", "net_nonsense0"),
        ("net_af_packet0,iface=dpdk-no-such", "dpdk-no-such"),
        ("net_pcap9,rx_pcap=/no/such/file.pcap", "/no/such/file.pcap"),
        ("net_null0,sise=3", "sise"),
    ] {
        let error = hotplug::attach(devargs).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{devargs}: cannot attach: ")),
            "{error}"
        );
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
        // Drivers' bare -1 must not read as EPERM.
        assert!(!error.contains("not permitted"), "{error}");
    }
    assert!(Port::by_name("net_null0").is_err());
    assert!(Port::by_id(PortId(31)).is_err());
}

fn ring_loop() {
    let pool = pool("ring_loop", 2047);
    let (port, mut rx, mut tx) = up("net_ring0", &pool);
    assert_eq!(port.name(), "net_ring0");
    assert_eq!(port.info().unwrap().driver, "net_ring");
    assert!(port.link_up().unwrap());
    let mut burst = Burst::new();
    fill(&mut burst, &pool, 0..10);
    burst.as_mut_slice()[3].set_tag(33);
    assert_eq!(tx.burst(&mut burst), 10);
    assert!(burst.is_empty());
    fill(&mut burst, &pool, 100..101);
    assert_eq!(rx.burst(&mut burst), 10, "behind what was there");
    assert_eq!(numbers(&burst)[..4], [100, 0, 1, 2]);
    assert_eq!(burst[4].tag(), 33);
    burst.clear();

    // Until the ring is full: the leftovers stay in order.
    let mut sent = 0;
    loop {
        fill(&mut burst, &pool, sent..sent + 64);
        let n = tx.burst(&mut burst) as u32;
        sent += n;
        if n < 64 {
            break;
        }
    }
    assert_eq!(
        numbers(&burst),
        (sent..sent + burst.len() as u32).collect::<Vec<_>>()
    );
    assert!(!burst.is_empty());
    assert_eq!(pool.in_use(), sent + burst.len() as u32);
    burst.clear();
    let mut received = 0;
    while rx.burst(&mut burst) > 0 {
        for mbuf in burst.drain() {
            assert_eq!(number(&mbuf), received);
            received += 1;
        }
    }
    assert_eq!((received, pool.in_use()), (sent, 0));
    let stats = port.stats().unwrap();
    assert_eq!(
        (stats.tx_packets, stats.rx_packets),
        (u64::from(sent) + 10, u64::from(sent) + 10)
    );
    port.reset_stats().unwrap();
    assert_eq!(port.stats().unwrap().tx_packets, 0);
    drop((rx, tx));
    port.detach().unwrap();
}

fn null_device() {
    let pool = pool("null", 511);
    let (port, mut rx, mut tx) = up("net_null0,size=100", &pool);
    let mut burst = Burst::new();
    assert_eq!(rx.burst(&mut burst), 64);
    assert!(
        burst
            .iter()
            .all(|m| m.pkt_len() == 100 && m.port() == port.id().0)
    );
    assert_eq!(rx.burst(&mut burst), 0, "no room");
    assert_eq!(tx.burst(&mut burst), 64);
    assert_eq!(pool.in_use(), 0);
    drop((rx, tx));
    port.detach().unwrap();
}

/// A little-endian capture file of Ethernet frames.
fn pcap_file(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    file
}

fn pcap_devices() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let pool = pool("pcap", 511);
    let mut frames: Vec<Vec<u8>> = (0..100).map(frame).collect();
    // Larger than a buffer: it arrives in segments.
    frames.push((0..5000u32).map(|i| i as u8).collect());
    fs::write(&input, pcap_file(&frames)).unwrap();
    let devargs = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        output.display()
    );
    let (port, mut rx, mut tx) = up(&devargs, &pool);
    let mut burst = Burst::new();
    let mut received = Vec::new();
    while rx.burst(&mut burst) > 0 {
        for mbuf in &burst {
            received.push(mbuf.segments().flatten().copied().collect::<Vec<u8>>());
        }
        tx.burst(&mut burst);
        assert!(burst.is_empty());
    }
    assert!(received == frames);
    assert_eq!(pool.in_use(), 0);
    drop((rx, tx));
    port.detach().unwrap();
    let written = fs::read(&output).unwrap();
    let mut at = 24;
    for frame in &frames {
        let len = u32::from_ne_bytes(written[at + 8..at + 12].try_into().unwrap()) as usize;
        assert!(written[at + 16..at + 16 + len] == frame[..]);
        at += 16 + len;
    }
    assert_eq!(at, written.len());
    // The same name is free again.
    fs::write(&input, pcap_file(&frames[..1])).unwrap();
    let (port, mut rx, tx) = up(&devargs, &pool);
    assert_eq!(rx.burst(&mut burst), 1);
    drop((rx, tx, port));
    assert!(
        Port::by_name("net_pcap0").is_err(),
        "closed with the last handle"
    );
}

fn port_states() {
    let pool = pool("states", 511);
    let ids = hotplug::attach("net_null1,size=64").unwrap();
    let again = hotplug::attach("net_null1,size=128")
        .unwrap_err()
        .to_string();
    assert!(again.contains("attached already"), "{again}");
    let port = Port::by_id(ids[0]).unwrap();
    assert!(
        Port::by_name("net_null1")
            .unwrap_err()
            .to_string()
            .contains("open already")
    );
    assert!(
        port.start()
            .unwrap_err()
            .to_string()
            .contains("not configured")
    );
    assert!(
        port.rx_queue(0)
            .unwrap_err()
            .to_string()
            .contains("not started")
    );
    assert!(port.setup_rx_queue(0, &pool).is_err());
    let info = port.info().unwrap();
    assert!(info.max_rx_queues >= 2 && info.max_mtu >= 1500);
    for conf in [
        PortConf {
            rx_queues: 0,
            ..PortConf::default()
        },
        PortConf {
            tx_queues: info.max_tx_queues + 1,
            ..PortConf::default()
        },
        PortConf {
            mtu: 10,
            ..PortConf::default()
        },
        PortConf {
            rx_queues: 2,
            rss_key: Some(vec![1; 3]),
            ..PortConf::default()
        },
    ] {
        let error = port.configure(&conf).unwrap_err().to_string();
        assert!(
            error.starts_with("net_null1: cannot configure: "),
            "{error}"
        );
    }
    let conf = PortConf {
        rx_queues: 2,
        tx_queues: 2,
        ..PortConf::default()
    };
    port.configure(&conf).unwrap();
    port.setup_rx_queue(0, &pool).unwrap();
    assert!(port.start().unwrap_err().to_string().contains("not set up"));
    assert!(port.setup_queues(&[]).is_err());
    port.setup_queues(std::slice::from_ref(&pool)).unwrap();
    port.start().unwrap();
    port.set_promiscuous(true).unwrap();
    port.set_mac([2, 0, 0x5e, 0, 0, 1]).unwrap();
    assert_eq!(port.mac().unwrap(), [2, 0, 0x5e, 0, 0, 1]);
    assert!(
        port.set_mac([1, 0, 0x5e, 0, 0, 1]).is_err(),
        "a group address"
    );

    // A queue is handed out once, and the port stays up until it is back.
    let mut rx = port.rx_queue(1).unwrap();
    assert_eq!((rx.port(), rx.queue()), (port.id(), 1));
    assert!(port.rx_queue(1).is_err() && port.rx_queue(2).is_err());
    assert!(matches!(
        port.stop(),
        Err(Error::QueuesInUse { queues: 1, .. })
    ));
    assert!(matches!(
        port.configure(&conf),
        Err(Error::QueuesInUse { .. })
    ));
    let mut burst = Burst::new();
    assert!(rx.burst(&mut burst) > 0);
    burst.clear();
    drop(rx);
    port.stop().unwrap();
    port.start().unwrap();
    drop(port.rx_queue(1).unwrap());
    port.close().unwrap();
    port.close().unwrap_err();
    assert!(port.stats().unwrap_err().to_string().contains("closed"));
    drop(port);
    assert_eq!(pool.in_use(), 0);
}

fn threads() {
    assert!(
        dpdk::thread::lcore_id().is_some(),
        "the main thread is lcore 0"
    );
    assert!(dpdk::thread::register().is_err());
    let pool = pool("thread", 127);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(dpdk::thread::lcore_id(), None);
            drop(pool.alloc().unwrap());
            let registered = dpdk::thread::register().unwrap();
            assert!(dpdk::thread::lcore_id().is_some());
            drop(pool.alloc().unwrap());
            drop(registered);
            assert_eq!(dpdk::thread::lcore_id(), None);
            // Blocked here, so raising one does not end the process.
            signals::block_realtime().unwrap();
            // SAFETY: sends a blocked signal to this thread, which ends with it.
            assert_eq!(unsafe { libc::raise(libc::SIGRTMIN() + 1) }, 0);
        });
    });
    assert_eq!(pool.in_use(), 0);
}
