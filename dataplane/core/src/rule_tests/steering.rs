//! Every frame of a flow comes to the worker that has it, whatever its tuple.

use super::*;
use crate::key::{Addr, HashKey};
use crate::shard::{Shard, Sizes};
use crate::steer::{Steer, worker_of_client, worker_of_frame};
use crate::wire::build::Tcp;
use std::net::IpAddr;

/// Clients with no pattern, reproducible.
fn clients(n: usize) -> impl Iterator<Item = (IpAddr, u16)> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    (0..n).map(move |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let b = x.to_be_bytes();
        let mut ip = Addr::from(CLIENT);
        ip.0[13..].copy_from_slice(&b[..3]);
        (ip.ip(), u16::from_be_bytes([b[3], b[4]]).max(1))
    })
}

/// A node of several workers: every frame goes to its worker.
struct Fleet {
    v: View,
    shards: Vec<Shard>,
    out: Out,
}

impl Fleet {
    fn new(v: View, workers: usize) -> Self {
        let shards = (0..workers)
            .map(|worker| {
                let sizes = Sizes {
                    worker,
                    workers,
                    flows: 1024,
                    hold: 1 << 20,
                };
                Shard::new(sizes, HashKey::new([5; 16]), &v)
            })
            .collect();
        Self {
            v,
            shards,
            out: Out::default(),
        }
    }

    /// Gives the number of the worker that had `f`.
    fn rx(&mut self, port: Port, f: Vec<u8>) -> usize {
        let w = worker_of_frame(&self.v, port, &Pieces::of(&f, 1), self.shards.len());
        let now = crate::time::Instant(1_000_000);
        self.shards[w].ingress(&self.v, port, Pieces::of(&f, 1), now, &mut self.out);
        assert!(self.out.handed.is_empty(), "no second steering");
        w
    }

    fn one(&mut self, port: Port) -> Vec<u8> {
        let q = &mut self.out.ports[port.index()];
        assert_eq!(q.len(), 1, "on {}", port.name());
        q.pop_front().unwrap()
    }

    fn command(&mut self, w: usize, c: Command) {
        let now = crate::time::Instant(1_000_000);
        self.shards[w].command(&self.v, c, now, &mut self.out);
    }
}

#[test]
fn a_whole_handover_stays_on_one_worker_of_each_node() {
    for (wa, wb) in [(2, 2), (3, 3), (4, 4), (2, 3), (4, 1), (1, 4)] {
        let (mut va, mut vb) = (view(1, 1), view(2, 1));
        // Random per boot: the two nodes steer differently.
        va.steer = Steer::new([0x31; 16]);
        vb.steer = Steer::new([0x57; 16]);
        let (mut a, mut b) = (Fleet::new(va, wa), Fleet::new(vb, wb));
        let mut used = [0usize; 4];
        for (i, (addr, port)) in clients(60).enumerate() {
            let wire = |f| from(f, addr, port);
            let local = |f| to(f, addr, port);
            let w = a.rx(Port::Wire, wire(client(1000, 0, SYN, syn_opts(100), b"")));
            assert_eq!(w, worker_of_client(&a.v, &addr.into(), port, wa));
            used[w] += 1;
            a.one(Port::WireHost);
            let f = host(
                8001,
                9000,
                1001,
                SYN | ACK,
                65_160,
                synack_opts(5000, 100),
                b"",
            );
            assert_eq!(a.rx(Port::WireHost, local(f)), w);
            a.one(Port::Wire);
            let f = client(1001, 9001, ACK | PSH, ts(130, 5000), GET);
            assert_eq!(a.rx(Port::Wire, wire(f)), w);
            a.one(Port::WireHost);
            let ticket = i as u64 + 1;
            a.command(
                w,
                Command::Freeze {
                    ticket,
                    client: sock(addr, port),
                    local: sock(VIP, 8001),
                },
            );
            a.command(w, splice(ticket, sock(on_link(2u16), 8080), GET, false));
            let syn = a.one(Port::Link);
            let theirs = b.rx(Port::Link, syn);
            assert_eq!(theirs, worker_of_client(&b.v, &addr.into(), port, wb));
            b.one(Port::WireHost);
            let k = 1001 + GET.len() as u32;
            let f = host(8080, 50, k, SYN | ACK, 65_160, synack_opts(777, 130), b"");
            assert_eq!(b.rx(Port::WireHost, local(f)), theirs);
            let accept = b.one(Port::Link);
            // The client was not told yet; K is acknowledged by the filter.
            assert_eq!(seen(&b.one(Port::Wire)).seg.ack, k);
            assert_eq!(a.rx(Port::Link, accept), w, "by the splice port");
            let mark = a.one(Port::Link);
            assert_eq!(b.rx(Port::Link, mark), theirs, "by the block");
            let end = b.one(Port::Link);
            assert_eq!(a.rx(Port::Link, end), w);
            let e: Vec<_> = a.shards[w].take_events().collect();
            assert!(matches!(e.last(), Some(Event::Done { .. })), "{e:?}");
            let f = client(k, 9001, ACK, ts(150, 5010), b"");
            assert_eq!(b.rx(Port::Wire, wire(f)), theirs);
            b.one(Port::WireHost);
            // So does what a router says of the answer.
            let f = host(80, 9001, k, ACK, 1, ts(1, 1), GET);
            assert_eq!(b.rx(Port::Wire, too_big(&to(f, addr, port), 1400)), theirs);
            let g = b.one(Port::WireHost);
            assert_eq!(g[QUOTED..QUOTED + 2], 8080u16.to_be_bytes());
        }
        assert!(used[..wa].iter().all(|&n| n > 60 / wa / 3), "{used:?}");
    }
}

#[test]
fn wire_host_block_and_splice_port_agree_for_many_clients() {
    let v = view(1, 1);
    for workers in [2, 3, 4] {
        let mut ports: Vec<_> = (0..workers)
            .map(|w| crate::handover::ports::SplicePorts::new(v.params.splice_ports, w, workers))
            .collect();
        for (addr, port) in clients(300) {
            let w = worker_of_client(&v, &addr.into(), port, workers);
            let f = from(client(1, 1, ACK, ts(1, 1), b""), addr, port);
            assert_eq!(worker_of_frame(&v, Port::Wire, &f, workers), w);
            for p in [8001, 8080] {
                let f = to(host(p, 1, 1, ACK, 1, ts(1, 1), b""), addr, port);
                assert_eq!(worker_of_frame(&v, Port::WireHost, &f, workers), w);
            }
            let mine = ports[w].take(0).unwrap();
            let answer = Tcp {
                eth_dst: v.link_mac,
                eth_src: [2; 6],
                src: on_link(2u16).into(),
                dst: v.link,
                sport: 8080,
                dport: mine,
                seq: 0,
                ack: 0,
                flags: SYN | ACK,
                window: 0,
                opts: Build::default(),
                payload: b"",
            }
            .frame();
            assert_eq!(worker_of_frame(&v, Port::Link, &answer, workers), w);
            let large = to(host(80, 1, 1, ACK, 1, ts(1, 1), GET), addr, port);
            let error = too_big(&large, 1400);
            assert_eq!(worker_of_frame(&v, Port::Wire, &error, workers), w);
            ports[w].give_back(Some(mine));
        }
    }
}

#[test]
fn what_belongs_to_no_flow_stays_on_worker_0() {
    let v = view(1, 1);
    let fragment = first_fragment(client(1, 1, ACK, ts(1, 1), b"x"));
    let udp = with_proto(client(1, 1, ACK, ts(1, 1), b"x"), 17);
    for f in [fragment, udp, vec![], vec![0xff; 13], vec![0xff; 60]] {
        for port in [Port::Wire, Port::WireHost, Port::Link, Port::LinkHost] {
            for workers in 1..5 {
                assert_eq!(worker_of_frame(&v, port, &f, workers), 0);
            }
        }
    }
}
