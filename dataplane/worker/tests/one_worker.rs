//! One worker over four capture files: every way of a frame, the commands, the
//! counters, and an end that leaves nothing behind. Needs neither root nor
//! hugepages.

mod common;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::*;
use crossbeam::channel;
use dts_core::command::{Command, Event, Fail};
use dts_core::drops::Drop;
use dts_core::frame::Port;
use dts_core::wire::arp::{self, Arp};
use dts_worker::{Fleet, start};

#[test]
fn frames_go_their_ways() {
    let files = Files::new();
    let mine = ports_of(1, 1)[0];
    let other = ports_of(2, 1)[0];
    // Larger than a buffer: the capture driver makes several segments of it, and no
    // wire of this MTU has sent it.
    let giant = udp(CLIENT, NODE, &[0; 4000]);
    let to_node = udp(CLIENT, NODE, b"to the node");
    let from_node = udp(NODE, CLIENT, b"from the node");
    let on_link = udp([10, 77, 1, 2], [10, 77, 1, 1], b"on the link");
    let to_link = udp([10, 77, 1, 1], [10, 77, 1, 2], b"to the link");
    let wire = vec![
        arp_request(VIP),
        syn(mine),
        syn(other),
        giant,
        to_node.clone(),
    ];
    let devices = [
        files.device(Port::Wire, std::slice::from_ref(&wire)),
        files.device(Port::WireHost, &[vec![from_node.clone()]]),
        files.device(Port::Link, &[vec![on_link.clone()]]),
        files.device(Port::LinkHost, &[vec![to_link.clone()]]),
    ];
    let opened = start::open(&config(&devices, 1, 1)).unwrap();
    assert_eq!(Port::ALL.map(|p| opened.queues(p)), [1; 4]);
    assert_eq!(opened.driver(Port::Wire), "net_pcap");
    assert!(opened.link_up(Port::Link));
    assert_eq!(opened.link_mac[0] & 3, 2, "a local unicast address");
    let wire_mac = opened.wire_mac;
    let views = Arc::new(ArcSwap::from_pointee(view(&opened)));
    let (events, inbox) = channel::unbounded();
    let fleet = Fleet::spawn(opened, views, events).unwrap();
    assert_eq!(fleet.workers(), 1);

    let client = (CLIENT, mine).into();
    let local = (VIP, 8001).into();
    assert_eq!(fleet.worker_of(client), 0);
    wait_for("frames", || {
        let s = &fleet.stats()[0];
        s.ports.iter().map(|p| p.rx_packets).sum::<u64>() == 8
    });
    fleet
        .command(
            0,
            Command::Flows {
                ticket: 5,
                limit: 10,
            },
        )
        .unwrap();
    match inbox.recv_timeout(Duration::from_secs(20)).unwrap() {
        (0, Event::Flows { ticket: 5, flows }) => {
            assert_eq!(flows.len(), 1);
            assert_eq!(flows[0].client, client);
        }
        (worker, event) => panic!("{worker}: {event:?}"),
    }
    let stranger = (CLIENT, other).into();
    fleet
        .command(
            0,
            Command::Freeze {
                ticket: 6,
                client: stranger,
                local,
            },
        )
        .unwrap();
    let (_, event) = inbox.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(
        matches!(
            event,
            Event::Failed {
                ticket: 6,
                fail: Fail::NoFlow
            }
        ),
        "{event:?}"
    );
    assert!(fleet.command(1, Command::Unfreeze { ticket: 6 }).is_err());

    wait_for("counters", || {
        let s = &fleet.stats()[0];
        let sent: u64 = s.ports.iter().map(|p| p.tx_packets).sum();
        sent == 6 && s.mbufs_used == 0 && s.sleeps > 0
    });
    let s = fleet.stats().remove(0);
    assert_eq!((s.flows, s.ring, s.tx_waiting), (1, 0, 0));
    assert_eq!(s.mbufs_capacity, 2047);
    assert!(s.hold_capacity > 0 && s.busy_loops > 0 && s.busy_loops < s.loops);
    assert!(s.sleeps > 0, "an idle worker sleeps");
    assert_eq!(
        s.ports[0].rx_bytes,
        wire.iter().map(|f| f.len() as u64).sum::<u64>()
    );
    for why in [Drop::NotOwner, Drop::TooLong, Drop::ArpConsumed] {
        assert_eq!(s.drops.get(why), 1, "{}", why.name());
    }
    assert_eq!(s.drops.0.iter().sum::<u64>(), 3, "{:?}", s.drops);
    let ports = fleet.ports();
    assert_eq!(ports.each_ref().map(|p| p.eth.tx_packets), [2, 2, 1, 1]);
    assert_eq!((ports[0].driver.as_str(), ports[0].up), ("net_pcap", true));
    assert_eq!(fleet.failed(), None);
    // It succeeds only if every packet buffer is back in its pool.
    fleet.stop().unwrap();

    let wire = files.sent(Port::Wire, 0);
    let replies: Vec<Arp> = wire.iter().filter_map(|f| Arp::parse(f)).collect();
    let reply = Arp {
        op: arp::REPLY,
        sha: CLUSTER_MAC,
        spa: VIP,
        tha: CLIENT_MAC,
        tpa: CLIENT,
    };
    assert_eq!(replies, [reply]);
    let rest: Vec<_> = wire.iter().filter(|f| Arp::parse(f).is_none()).collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0][6..12], wire_mac);
    assert_eq!(rest[0][12..], from_node[12..]);

    let host = files.sent(Port::WireHost, 0);
    assert_eq!(host.len(), 2);
    assert_eq!(tcp_ports(&host[0]), (mine, 8001));
    assert_eq!(host[0][..6], CLUSTER_MAC);
    assert_eq!(host[1], to_node);
    assert_eq!(files.sent(Port::LinkHost, 0), [on_link]);
    let link = files.sent(Port::Link, 0);
    assert_eq!(link.len(), 1);
    assert_eq!(link[0][12..], to_link[12..]);
}
