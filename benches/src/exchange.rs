//! Requests and responses, ready to be sent, and what is to be seen of them where they
//! come out.

use crate::flows::{self, Marks};

/// Bytes of a frame.
pub const FRAME: usize = 78;
/// Where the numbers lie in it: Ethernet, IPv4 without options, TCP.
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;
const SEQ: usize = 38;
const ACK: usize = 42;
const FLAGS: usize = 47;

/// What a frame is that came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As it should be, of the exchange with this number.
    Due(usize),
    /// A SYN.
    Syn,
    /// Anything else: a frame that was not translated, or wrongly.
    Stray,
}

#[derive(Clone, Debug)]
struct Exchange {
    request: [u8; FRAME],
    response: [u8; FRAME],
    marks: Marks,
}

/// The exchanges of all active flows, in the order in which they are asked.
#[derive(Debug)]
pub struct Exchanges {
    all: Vec<Exchange>,
    /// Where each flow is, by its number divided by `step`.
    places: Vec<u32>,
    step: u32,
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

fn half(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

impl Exchanges {
    /// Those of `active` flows of `resident` ones, as they come out of what translates
    /// them, or does not.
    #[must_use]
    pub fn new(active: u32, resident: u32, translated: bool) -> Self {
        let flows = flows::spread(active, resident);
        let step = (resident / active).max(1);
        let mut places = vec![0; active as usize];
        for (place, n) in (0..).zip(&flows) {
            places[(n / step) as usize] = place;
        }
        let exchange = |n: u32| {
            let (mut request, mut response) = ([0; FRAME], [0; FRAME]);
            request.copy_from_slice(&flows::client_ack(n));
            response.copy_from_slice(&flows::server_ack(n));
            Exchange {
                request,
                response,
                marks: flows::marks(n, translated),
            }
        };
        Self {
            all: flows.into_iter().map(exchange).collect(),
            places,
            step,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The request of one.
    #[must_use]
    pub fn request(&self, i: usize) -> &[u8; FRAME] {
        &self.all[i].request
    }

    /// The response of one.
    #[must_use]
    pub fn response(&self, i: usize) -> &[u8; FRAME] {
        &self.all[i].response
    }

    /// The place of a client's flow; [`flows::flow`] says how it is made.
    fn place(&self, addr: u32, port: u16) -> Option<usize> {
        let low = u32::from(port.wrapping_sub(1024));
        if addr >> 24 != 10 || low > 255 {
            return None;
        }
        let rank = ((addr << 8) | low) / self.step;
        self.places.get(rank as usize).map(|&p| p as usize)
    }

    /// Judges what came to the host.
    #[must_use]
    pub fn at_host(&self, frame: &[u8]) -> Seen {
        if frame.len() >= 54 && frame[FLAGS] == 2 {
            return Seen::Syn;
        }
        if frame.len() != FRAME {
            return Seen::Stray;
        }
        let place = self.place(word(frame, SOURCE), half(frame, SOURCE_PORT));
        let marks = (half(frame, DESTINATION_PORT), word(frame, ACK));
        match place {
            Some(i) if self.all[i].marks.request == marks => Seen::Due(i),
            _ => Seen::Stray,
        }
    }

    /// Judges what came to the wire.
    #[must_use]
    pub fn at_wire(&self, frame: &[u8]) -> Seen {
        if frame.len() != FRAME {
            return Seen::Stray;
        }
        let place = self.place(word(frame, DESTINATION), half(frame, DESTINATION_PORT));
        let marks = (half(frame, SOURCE_PORT), word(frame, SEQ));
        match place {
            Some(i) if self.all[i].marks.response == marks => Seen::Due(i),
            _ => Seen::Stray,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dts_core::frame::{Output, Pool, Port};
    use dts_core::key::HashKey;
    use dts_core::shard::{Shard, Sizes};
    use dts_core::time::Instant;

    #[test]
    fn frames_that_pass_unchanged_are_known() {
        let x = Exchanges::new(100, 1_000, false);
        for i in 0..x.count() {
            assert_eq!(x.at_host(x.request(i)), Seen::Due(i));
            assert_eq!(x.at_wire(x.response(i)), Seen::Due(i));
            assert_eq!(x.at_wire(x.request(i)), Seen::Stray);
        }
        assert_eq!(x.at_host(&flows::bare_syn(5)), Seen::Syn);
        assert_eq!(x.at_host(&flows::bare_ack(5)), Seen::Stray);
        assert_eq!(x.at_host(&[0; 20]), Seen::Stray);
    }

    #[derive(Default)]
    struct Sent(Vec<(Port, Vec<u8>)>);

    impl Pool for Sent {
        type Frame = Vec<u8>;
        fn frame(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            Some(bytes.to_vec())
        }
    }

    impl Output for Sent {
        fn send(&mut self, port: Port, frame: Vec<u8>) {
            self.0.push((port, frame));
        }
        fn hand_off(&mut self, _: usize, _: Port, _: Vec<u8>) {
            unreachable!("there is one worker")
        }
    }

    /// What a node makes of them is what is expected at the far side, and nothing else.
    #[test]
    fn frames_that_a_node_translated_are_known() {
        let spec = crate::node::Spec::plain(10, 0);
        let view = crate::node::view(&spec, [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]]).unwrap();
        let sizes = Sizes {
            worker: 0,
            workers: 1,
            flows: 1_024,
            hold: 1 << 20,
        };
        let mut shard = Shard::new(sizes, HashKey::new(*b"key of one node."), &view);
        for n in 0..10 {
            assert!(shard.enter(&view, &flows::resident(n), Instant(0)));
        }
        let x = Exchanges::new(10, 10, true);
        for i in 0..x.count() {
            let mut out = Sent::default();
            let request = x.request(i).to_vec();
            assert_eq!(x.at_host(&request), Seen::Stray);
            shard.ingress(&view, Port::Wire, request, Instant(1_000), &mut out);
            let response = x.response(i).to_vec();
            shard.ingress(&view, Port::WireHost, response, Instant(2_000), &mut out);
            let [(Port::WireHost, there), (Port::Wire, back)] = &out.0[..] else {
                panic!("{:?}", out.0);
            };
            assert_eq!(x.at_host(there), Seen::Due(i));
            assert_eq!(x.at_wire(back), Seen::Due(i));
        }
    }
}
