//! Where a worker's frames go: its transmit queues, or rings to other workers.

use std::collections::VecDeque;

use dpdk::{Burst, Gso, Mbuf, Mempool, Producer, TxQueue};
use dts_core::drops::{Drop, Drops};
use dts_core::frame::{Output, Pool, Port};

use crate::offload::{Finish, Offload};
use crate::packet::{Packet, Passage};
use crate::stats::Traffic;

/// What takes frames from the front of a burst.
pub(crate) trait Sink {
    /// How many it took; the others stay, in order.
    fn take(&mut self, burst: &mut Burst) -> usize;

    /// Makes a frame ready for which the device was asked for something; false
    /// where it cannot do it.
    fn prepare(&mut self, mbuf: &mut Mbuf) -> bool;
}

impl Sink for TxQueue {
    #[inline]
    fn take(&mut self, burst: &mut Burst) -> usize {
        self.burst(burst)
    }

    fn prepare(&mut self, mbuf: &mut Mbuf) -> bool {
        TxQueue::prepare(self, mbuf)
    }
}

/// One transmit queue and what its driver has not taken yet.
pub(crate) struct Tx<Q = TxQueue> {
    queue: Q,
    /// The oldest frames.
    burst: Burst,
    /// What does not fit there, behind them. Never grows beyond `backlog_max`.
    backlog: VecDeque<Mbuf>,
    backlog_max: usize,
    /// What frames need before the driver gets them.
    finish: Finish,
}

impl<Q: Sink> Tx<Q> {
    pub(crate) fn new(queue: Q, backlog_max: usize, finish: Finish) -> Self {
        let backlog = VecDeque::with_capacity(backlog_max);
        Self {
            queue,
            burst: Burst::new(),
            backlog,
            backlog_max,
            finish,
        }
    }

    /// Finishes a frame and queues what becomes of it.
    #[cold]
    fn push_unfinished(
        &mut self,
        offload: &mut Offload,
        mbuf: Mbuf,
        traffic: &mut Traffic,
        drops: &mut Drops,
    ) {
        let mut frames = std::mem::take(&mut offload.frames);
        if let Err(why) = offload.finish(&self.finish, &mut self.queue, mbuf, &mut frames) {
            // The stack sends again what is not acknowledged; half a large frame
            // would only be made up for by another.
            frames.clear();
            drops.count(why);
        }
        for mbuf in frames.drain(..) {
            if !self.push(mbuf, traffic) {
                drops.count(Drop::TxFull);
            }
        }
        offload.frames = frames;
    }

    /// Queues a frame; false where it had to be dropped.
    #[inline(always)]
    fn push(&mut self, mbuf: Mbuf, traffic: &mut Traffic) -> bool {
        if !self.backlog.is_empty() {
            return self.push_behind(mbuf);
        }
        match self.burst.push(mbuf) {
            Ok(()) => true,
            Err(mbuf) => {
                self.flush(traffic);
                self.push_behind(mbuf)
            }
        }
    }

    /// Queues a frame behind others that the driver may not have taken.
    #[cold]
    fn push_behind(&mut self, mbuf: Mbuf) -> bool {
        // `flush` leaves a backlog only behind a full burst.
        let Err(mbuf) = self.burst.push(mbuf) else {
            return true;
        };
        if self.backlog.len() == self.backlog_max {
            return false;
        }
        self.backlog.push_back(mbuf);
        true
    }

    /// Gives the driver what it takes.
    fn flush(&mut self, traffic: &mut Traffic) {
        while !self.burst.is_empty() {
            let before = bytes(&self.burst);
            let taken = self.queue.take(&mut self.burst);
            traffic.packets += taken as u64;
            traffic.bytes += before - bytes(&self.burst);
            while !self.burst.is_full()
                && let Some(mbuf) = self.backlog.pop_front()
            {
                if let Err(mbuf) = self.burst.push(mbuf) {
                    self.backlog.push_front(mbuf);
                }
            }
            if taken == 0 {
                break;
            }
        }
    }

    fn waiting(&self) -> usize {
        self.burst.len() + self.backlog.len()
    }
}

fn bytes(burst: &Burst) -> u64 {
    burst.iter().map(|m| u64::from(m.pkt_len())).sum()
}

/// How a worker sends on a port.
pub(crate) enum Route {
    /// By a queue of its own.
    Own(Box<Tx>),
    /// By the ring of the worker that has a queue.
    Via(usize),
}

/// The way to another worker.
struct Lane {
    producer: Producer,
    burst: Burst,
}

impl Lane {
    fn flush(&mut self, drops: &mut Drops) {
        self.producer.enqueue_burst(&mut self.burst);
        for _ in 0..self.burst.clear() {
            drops.count(Drop::RingFull);
        }
    }
}

/// A worker's [`Output`].
pub(crate) struct Egress {
    pool: Mempool,
    /// Finishes frames for devices.
    pub(crate) offload: Offload,
    routes: [Route; 4],
    lanes: Vec<Lane>,
    /// Sent frames by port.
    pub(crate) sent: [Traffic; 4],
    /// What ended here.
    pub(crate) drops: Drops,
}

impl Egress {
    /// `producers` are the rings of all workers in their order.
    pub(crate) fn new(
        pool: Mempool,
        gso: Option<Gso>,
        routes: [Route; 4],
        producers: Vec<Producer>,
    ) -> Self {
        let lanes = producers.into_iter().map(|producer| Lane {
            producer,
            burst: Burst::new(),
        });
        Self {
            offload: Offload::new(pool.clone(), gso),
            pool,
            routes,
            lanes: lanes.collect(),
            sent: Default::default(),
            drops: Drops::default(),
        }
    }

    /// Sends a frame that another worker processed.
    #[inline]
    pub(crate) fn send_mbuf(&mut self, port: Port, mbuf: Mbuf) {
        match &mut self.routes[port.index()] {
            Route::Own(tx) => {
                let sent = &mut self.sent[port.index()];
                if !tx.finish.passes(&mbuf) {
                    tx.push_unfinished(&mut self.offload, mbuf, sent, &mut self.drops);
                } else if !tx.push(mbuf, sent) {
                    self.drops.count(Drop::TxFull);
                }
            }
            &mut Route::Via(worker) => self.pass(worker, Passage::Out(port), mbuf),
        }
    }

    /// Puts a frame on the way to another worker.
    #[inline]
    pub(crate) fn pass(&mut self, worker: usize, passage: Passage, mut mbuf: Mbuf) {
        // A worker number comes from the same modulus that made the lanes; a
        // wrong one would be our own mistake, and must not take the node down.
        let Some(lane) = self.lanes.get_mut(worker) else {
            debug_assert!(false, "no worker {worker}");
            return self.drops.count(Drop::RingFull);
        };
        mbuf.set_tag(passage.tag());
        if let Err(mbuf) = lane.burst.push(mbuf) {
            lane.flush(&mut self.drops);
            // `flush` leaves the burst empty.
            let _ = lane.burst.push(mbuf);
        }
    }

    /// The end of a loop: everything leaves that can.
    pub(crate) fn flush(&mut self) {
        for (route, sent) in self.routes.iter_mut().zip(&mut self.sent) {
            if let Route::Own(tx) = route
                && !tx.burst.is_empty()
            {
                tx.flush(sent);
            }
        }
        for lane in &mut self.lanes {
            if !lane.burst.is_empty() {
                lane.flush(&mut self.drops);
            }
        }
    }

    /// Frames that no driver has taken yet.
    pub(crate) fn waiting(&self) -> usize {
        let waiting = |r: &Route| match r {
            Route::Own(tx) => tx.waiting(),
            Route::Via(_) => 0,
        };
        self.routes.iter().map(waiting).sum()
    }
}

impl Pool for Egress {
    type Frame = Packet;

    fn frame(&mut self, bytes: &[u8]) -> Option<Packet> {
        self.pool.alloc_all(bytes).and_then(Packet::new)
    }
}

impl Output for Egress {
    #[inline]
    fn send(&mut self, port: Port, frame: Packet) {
        self.send_mbuf(port, frame.into_mbuf());
    }

    #[inline]
    fn hand_off(&mut self, worker: usize, port: Port, frame: Packet) {
        self.pass(worker, Passage::In(port), frame.into_mbuf());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dpdk::{DEFAULT_DATA_ROOM, Eal, Ring};

    /// A driver with this much room.
    struct Slow {
        room: usize,
        took: Vec<u8>,
    }

    impl Sink for Slow {
        fn take(&mut self, burst: &mut Burst) -> usize {
            let n = self.room.min(burst.len());
            let mut rest = Burst::new();
            for (i, mbuf) in burst.drain().enumerate() {
                if i < n {
                    self.took.push(mbuf.data()[0]);
                } else {
                    rest.push(mbuf).unwrap();
                }
            }
            burst.take_from(&mut rest);
            self.room -= n;
            n
        }

        fn prepare(&mut self, _: &mut Mbuf) -> bool {
            false
        }
    }

    const PLAIN: Finish = Finish {
        max: 1514,
        vlan: None,
        inserts: false,
        segments: false,
        checksum: false,
        tso: false,
    };

    /// One test, because the EAL starts once per process.
    #[test]
    fn full_queues_and_rings() {
        let options = [
            "--no-huge",
            "--no-shconf",
            "--no-telemetry",
            "--no-pci",
            "-m",
            "16",
            "--lcores",
            "0",
        ];
        let _eal = Eal::init(&options.map(str::to_owned)).unwrap();
        let pool = Mempool::new("egress", 255, 0, DEFAULT_DATA_ROOM, None).unwrap();
        backlog(&pool);
        rings(&pool);
        crate::offload::tests::all(&pool);
        assert_eq!(pool.in_use(), 0);
    }

    fn backlog(pool: &Mempool) {
        let mut sent = Traffic::default();
        let mut tx = Tx::new(
            Slow {
                room: 10,
                took: Vec::new(),
            },
            20,
            PLAIN,
        );
        let mut refused = 0;
        for n in 0..100u8 {
            refused += usize::from(!tx.push(pool.alloc_from(&[n; 60]).unwrap(), &mut sent));
        }
        // 10 sent, 64 in the burst, 20 behind it.
        assert_eq!(
            (refused, tx.waiting(), sent.packets, sent.bytes),
            (6, 84, 10, 600)
        );
        assert_eq!(pool.in_use(), 84);
        tx.flush(&mut sent);
        assert_eq!(sent.packets, 10, "no room, no change");
        tx.queue.room = 70;
        tx.flush(&mut sent);
        assert_eq!((tx.waiting(), sent.packets, sent.bytes), (14, 80, 4800));
        assert!(tx.push(pool.alloc_from(&[200; 60]).unwrap(), &mut sent));
        tx.queue.room = 100;
        tx.flush(&mut sent);
        assert_eq!((tx.waiting(), pool.in_use()), (0, 0));
        let order: Vec<u8> = (0..94).chain([200]).collect();
        assert_eq!(tx.queue.took, order);
    }

    fn rings(pool: &Mempool) {
        let mut ring = Ring::new("egress", 70).unwrap();
        let routes =
            [Port::Wire, Port::WireHost, Port::Link, Port::LinkHost].map(|_| Route::Via(0));
        let mut egress = Egress::new(pool.clone(), None, routes, vec![ring.producer()]);
        for n in 0..80 {
            let frame = egress.frame(&[n; 60]).unwrap();
            if n % 2 == 0 {
                egress.send(Port::Link, frame);
            } else {
                egress.hand_off(0, Port::Link, frame);
            }
        }
        egress.flush();
        assert_eq!(
            (ring.len(), egress.drops.get(Drop::RingFull), pool.in_use()),
            (70, 10, 70)
        );
        let mut burst = Burst::new();
        ring.dequeue_burst(&mut burst);
        let passages: Vec<Passage> = burst.iter().take(2).map(|m| Passage::of(m.tag())).collect();
        assert_eq!(
            passages,
            [Passage::Out(Port::Link), Passage::In(Port::Link)]
        );
    }
}
