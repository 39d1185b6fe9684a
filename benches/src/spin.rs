//! The shard alone over frames in memory: no device, no rings, small enough for the
//! caches. What is left is instructions, which callgrind counts (`instructions`) and a
//! profiler places.

use crate::counted::counted;
use crate::flows;
use crate::node::{self, Spec};
use crate::traffic::Way;
use anyhow::{Result, ensure};
use dts_core::ahead::{BURST, Looked};
use dts_core::drops::Drop;
use dts_core::frame::{Output, Pool, Port};
use dts_core::key::HashKey;
use dts_core::shard::{Shard, Sizes};
use dts_core::time::Instant;
use dts_core::view::View;
use dts_core::wire::tcp::Segment;
use dts_core::wire::{self, L3};

/// Flows, all of which are active.
const FLOWS: u32 = 256;

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

/// What is done with each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The headers and options of a client's frame are read, and no more.
    Parse,
    /// The look ahead alone, over frames from clients whose FCBs are here.
    Lookup,
    /// All of its way, as a bench has it.
    Whole(Way),
}

impl Step {
    /// The port by which the frames come, and the frames.
    fn frames(self, view: &View) -> (Port, Vec<Vec<u8>>) {
        match self {
            Step::Whole(Way::Out) => (Port::WireHost, (0..FLOWS).map(flows::server_ack).collect()),
            Step::Whole(Way::Discard) => {
                let others = flows::owned(view, FLOWS, false).take(FLOWS as usize);
                (Port::Wire, others.map(flows::bare_ack).collect())
            }
            Step::Parse | Step::Lookup | Step::Whole(Way::In | Way::Share) => {
                (Port::Wire, (0..FLOWS).map(flows::client_ack).collect())
            }
        }
    }
}

/// How a run went.
#[derive(Clone, Copy, Debug)]
pub struct Spun {
    /// Frames that went through.
    pub frames: u64,
    /// Nanoseconds for each, the harness's own copy of it included.
    pub nanos: f64,
}

/// One burst's turn, as a worker's loop has it. `frames` is empty after.
fn turn(
    shard: &mut Shard,
    view: &View,
    port: Port,
    frames: &mut Vec<Vec<u8>>,
    looked: &mut Looked,
    now: Instant,
    out: &mut Taken,
) {
    let gone = look(shard, view, port, frames, looked);
    for (i, frame) in frames.drain(..).enumerate() {
        if gone >> i & 1 != 0 {
            out.0.push(frame);
        } else {
            shard.ingress_seen(view, port, &looked.ahead(i), frame, now, out);
        }
    }
}

/// The look ahead of a burst. Returns which frames it would end.
fn look(
    shard: &mut Shard,
    view: &View,
    port: Port,
    frames: &[Vec<u8>],
    looked: &mut Looked,
) -> u64 {
    looked.read(view, port, frames.iter().map(|f| (&f[..], true)));
    let gone = shard.look(view, looked);
    for i in (0..frames.len()).filter(|i| gone >> i & 1 == 0) {
        shard.ask_for(looked, i);
    }
    gone
}

/// Reads all headers of a burst. Returns how many frames are TCP segments with
/// timestamps.
fn parse(frames: &[Vec<u8>]) -> usize {
    let read = |frame: &Vec<u8>| {
        let Ok(L3::Ip(ip)) = wire::l3(frame) else {
            return None;
        };
        let segment = std::hint::black_box(Segment::parse(frame, &ip)).ok()?;
        segment.opts.timestamps
    };
    frames.iter().filter_map(read).count()
}

/// Nanoseconds per frame over `bursts` bursts.
///
/// # Errors
/// A frame does not go where it belongs.
pub fn run(way: Way, bursts: u32) -> Result<f64> {
    Ok(step(Step::Whole(way), bursts)?.nanos)
}

/// `bursts` bursts of one step, which alone goes through [`counted`].
///
/// # Errors
/// A frame does not go where it belongs.
pub fn step(step: Step, bursts: u32) -> Result<Spun> {
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
    let (port, originals) = step.frames(&view);
    let mut out = Taken(Vec::with_capacity(BURST));
    let mut looked = Looked::default();
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
        went += match step {
            Step::Parse => counted(|| parse(&frames)),
            Step::Lookup => {
                let gone = counted(|| look(&mut shard, &view, port, &frames, &mut looked));
                BURST - gone.count_ones() as usize
            }
            Step::Whole(_) => {
                counted(|| {
                    turn(
                        &mut shard,
                        &view,
                        port,
                        &mut frames,
                        &mut looked,
                        now,
                        &mut out,
                    );
                });
                std::mem::swap(&mut frames, &mut out.0);
                frames.len()
            }
        };
    }
    let all = BURST * bursts as usize;
    if step == Step::Whole(Way::Discard) {
        went = shard.drops.get(Drop::NoFlow) as usize;
    }
    ensure!(went == all, "{went} of {all}: {:?}", shard.drops);
    Ok(Spun {
        frames: all as u64,
        nanos: start.elapsed().as_nanos() as f64 / all as f64,
    })
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
