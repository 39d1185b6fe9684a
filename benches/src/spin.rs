//! The shard alone over frames in memory: no device, no rings, small enough for the
//! caches. What is left is instructions, which callgrind counts and a profiler places.

use crate::flows;
use crate::node::{self, Spec};
use crate::traffic::Way;
use anyhow::{Result, ensure};
use dts_core::ahead::Ahead;
use dts_core::drops::Drop;
use dts_core::frame::{Output, Pool, Port};
use dts_core::key::HashKey;
use dts_core::shard::{Shard, Sizes};
use dts_core::time::Instant;

/// Flows, all of which are active.
const FLOWS: u32 = 256;
/// Frames of a burst.
const BURST: usize = 64;

/// Takes every frame, and gives it back to be used again.
#[derive(Default)]
struct Taken(Vec<Vec<u8>>);

impl Pool for Taken {
    type Frame = Vec<u8>;
    fn frame(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}

impl Output for Taken {
    fn send(&mut self, _: Port, frame: Vec<u8>) {
        self.0.push(frame);
    }
    fn hand_off(&mut self, _: usize, _: Port, _: Vec<u8>) {
        unreachable!("there is one worker")
    }
}

/// Nanoseconds per frame over `bursts` bursts.
///
/// # Errors
/// A frame does not go where it belongs.
pub fn run(way: Way, bursts: u32) -> Result<f64> {
    let spec = Spec::plain(FLOWS, 0);
    let view = node::view(&spec, [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]])?;
    let sizes = Sizes {
        worker: 0,
        workers: 1,
        flows: FLOWS as usize,
        hold: 1 << 20,
    };
    let mut shard = Shard::new(sizes, HashKey::new(*b"key of one node."), &view);
    for n in 0..FLOWS {
        ensure!(shard.enter(&view, &flows::resident(n), Instant(0)));
    }
    let (port, originals): (_, Vec<Vec<u8>>) = match way {
        Way::In | Way::Share => (Port::Wire, (0..FLOWS).map(flows::client_ack).collect()),
        Way::Out => (Port::WireHost, (0..FLOWS).map(flows::server_ack).collect()),
        Way::Discard => {
            let others = flows::owned(&view, FLOWS, false).take(FLOWS as usize);
            (Port::Wire, others.map(flows::bare_ack).collect())
        }
    };
    let mut out = Taken::default();
    let mut ahead = [Ahead::default(); BURST];
    let mut frames: Vec<Vec<u8>> = originals[..BURST].to_vec();
    let (mut at, mut went) = (0, 0);
    let start = std::time::Instant::now();
    for n in 0..bursts {
        // Frames that the shard drops are gone.
        frames.resize_with(BURST, || originals[0].clone());
        for frame in &mut frames {
            frame.copy_from_slice(&originals[at]);
            at = (at + 1) % originals.len();
        }
        let now = Instant(u64::from(n) * 1_000);
        for (frame, a) in frames.iter().zip(&mut ahead) {
            *a = shard.look(&view, port, frame, true);
        }
        shard.look_on(&view, &mut ahead);
        for (frame, a) in frames.drain(..).zip(&mut ahead) {
            if shard.look_closer(a) {
                out.0.push(frame);
            } else {
                shard.ingress_seen(&view, port, a, frame, now, &mut out);
            }
        }
        if way != Way::Discard {
            went += out.0.len();
        }
        std::mem::swap(&mut frames, &mut out.0);
    }
    let all = BURST * bursts as usize;
    if way == Way::Discard {
        went = shard.drops.get(Drop::NoFlow) as usize;
    }
    ensure!(went == all, "{went} of {all}: {:?}", shard.drops);
    Ok(start.elapsed().as_nanos() as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_goes_where_it_belongs() {
        for way in [Way::In, Way::Out, Way::Discard] {
            run(way, 10).unwrap();
        }
    }
}
