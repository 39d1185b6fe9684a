//! Moves frames between pairs of interfaces, as the model says, and keeps the counts.
//!
//! One thread; a frame's delay counts from the kernel's receive timestamp, so what the
//! relay itself needs is part of the delay and not added to it. Between wake-ups it
//! sleeps in `ppoll` until the next frame is due, with a timer slack of a microsecond.

use super::flow::{Counter, Report};
use super::frame::Frame;
use super::model::{Play, Sequence};
use super::{Cable, Command, Impairment, Reply};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, IoSliceMut, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Frames that wait at most, over all cables.
const WAITING_MOST: usize = 100_000;
/// Frames that are taken from an interface before the next one is looked at.
const BURST: usize = 64;
/// Flows that are counted per cable.
const FLOWS_MOST: usize = 20_000;
/// Lateness is counted in microseconds up to this.
const LATE_MOST: usize = 20_000;
/// linux/if_packet.h: a frame that this machine sent.
const PACKET_OUTGOING: u8 = 4;

/// A cable of the command line: `name=first:second`.
#[derive(Clone, Debug)]
pub struct Ends {
    /// What commands call it.
    pub name: String,
    /// Its two interfaces.
    pub interfaces: [String; 2],
}

impl std::str::FromStr for Ends {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (name, rest) = text.split_once('=')?;
            let (first, second) = rest.split_once(':')?;
            Some(Self {
                name: name.into(),
                interfaces: [first.into(), second.into()],
            })
        };
        parts().ok_or_else(|| format!("{text}: not NAME=INTERFACE:INTERFACE"))
    }
}

struct Flow {
    counters: [Counter; 2],
    sequences: [Sequence; 2],
    plays: [Play; 2],
}

struct Line {
    name: String,
    ports: [OwnedFd; 2],
    settings: [Impairment; 2],
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    /// For frames of no TCP connection.
    others: [Sequence; 2],
}

/// A frame that waits: due time in nanoseconds, order of arrival, line, way out.
type Waiting = Reverse<(i64, u64, usize, usize, Vec<u8>)>;

/// The relay.
pub struct Relay {
    lines: Vec<Line>,
    queue: BinaryHeap<Waiting>,
    arrivals: u64,
    seed: u64,
    overflow: u64,
    late: Vec<u64>,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

fn now() -> io::Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.num_nanoseconds())
}

/// A packet socket on one interface.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let named = |e: Errno| io::Error::other(format!("{interface}: {e}"));
    let address = getifaddrs()?
        .filter(|i| i.interface_name == interface)
        .find_map(|i| i.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::other(format!("{interface}: no such interface")))?;
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )
    .map_err(named)?;
    bind(fd.as_raw_fd(), &address).map_err(named)?;
    setsockopt(&fd, sockopt::ReceiveTimestampns, &true).map_err(named)?;
    setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20)).map_err(named)?;
    setsockopt(&fd, sockopt::SndBufForce, &(64 << 20)).map_err(named)?;
    // Until it was bound, the socket heard every interface.
    let mut bytes = [0; 1];
    let mut iov = [IoSliceMut::new(&mut bytes)];
    while recvmsg::<LinkAddr>(fd.as_raw_fd(), &mut iov, None, MsgFlags::empty()).is_ok() {}
    Ok(fd)
}

impl Relay {
    /// Opens the interfaces of `cables`.
    ///
    /// # Errors
    /// An interface is missing, or the right to open packet sockets.
    pub fn open(cables: Vec<Ends>) -> io::Result<Self> {
        // The kernel's default adds up to 50 microseconds to each sleep.
        nix::sys::prctl::set_timerslack(1000)?;
        let mut lines = Vec::new();
        for (number, ends) in cables.into_iter().enumerate() {
            let [first, second] = &ends.interfaces;
            lines.push(Line {
                ports: [open(first)?, open(second)?],
                name: ends.name,
                settings: Default::default(),
                flows: HashMap::new(),
                others: [false, true].map(|back| Sequence::new(0, number, back, 0)),
            });
        }
        Ok(Self {
            lines,
            queue: BinaryHeap::new(),
            arrivals: 0,
            seed: 0,
            overflow: 0,
            late: vec![0; LATE_MOST + 1],
            buffer: vec![0; 65_536],
            control: nix::cmsg_space!(TimeSpec),
        })
    }

    /// Relays until standard input ends; each line there is a [`Command`], each line of
    /// standard output its [`Reply`].
    ///
    /// # Errors
    /// A socket broke, or standard input or output did.
    pub fn run(&mut self) -> io::Result<()> {
        let input = io::stdin();
        let mut text = Vec::new();
        loop {
            let timeout = match self.queue.peek() {
                Some(Reverse((due, ..))) => Some(TimeSpec::nanoseconds((due - now()?).max(0))),
                None => None,
            };
            let mut fds = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN)];
            for line in &self.lines {
                for port in &line.ports {
                    fds.push(PollFd::new(port.as_fd(), PollFlags::POLLIN));
                }
            }
            match ppoll(&mut fds, timeout, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready: Vec<bool> = fds
                .iter()
                .map(|f| f.revents().is_some_and(|r| !r.is_empty()))
                .collect();
            for number in 0..self.lines.len() {
                for side in 0..2 {
                    if ready[1 + number * 2 + side] {
                        self.receive(number, side)?;
                    }
                }
            }
            self.send_due()?;
            if ready[0] && !self.commands(&mut text)? {
                return Ok(());
            }
        }
    }

    fn commands(&mut self, text: &mut Vec<u8>) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let n = nix::unistd::read(io::stdin().as_fd(), &mut bytes)?;
        text.extend_from_slice(&bytes[..n]);
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(command) => self.command(command),
                Err(e) => Reply {
                    error: e.to_string(),
                    ..Reply::default()
                },
            };
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &reply)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Ok(n > 0)
    }

    fn command(&mut self, command: Command) -> Reply {
        let unknown = |name: &str| Reply {
            error: format!("{name}: no such cable"),
            ..Reply::default()
        };
        match command {
            Command::Set { seed, mut cables } => {
                self.seed = seed;
                self.overflow = 0;
                self.late.fill(0);
                for (number, line) in self.lines.iter_mut().enumerate() {
                    let Cable { out, back } = cables.remove(&line.name).unwrap_or_default();
                    line.settings = [out, back];
                    line.flows.clear();
                    line.others = [false, true].map(|back| Sequence::new(seed, number, back, 0));
                }
                match cables.keys().next() {
                    Some(name) => unknown(name),
                    None => Reply::default(),
                }
            }
            Command::Report { cable } => {
                let Some(line) = self.lines.iter().find(|l| l.name == cable) else {
                    return unknown(&cable);
                };
                let report = |(ends, flow): (&(SocketAddr, SocketAddr), &Flow)| Report {
                    near: ends.0,
                    far: ends.1,
                    out: flow.counters[0].counts.clone(),
                    back: flow.counters[1].counts.clone(),
                };
                let (late_p50_us, late_p99_us) = (self.late_at(0.5), self.late_at(0.99));
                Reply {
                    error: String::new(),
                    flows: line.flows.iter().map(report).collect(),
                    overflow: self.overflow,
                    late_p50_us,
                    late_p99_us,
                    late_max_us: self.late_at(1.0),
                }
            }
        }
    }

    fn late_at(&self, share: f64) -> u64 {
        let wanted = (self.late.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let at = self.late.iter().position(|n| {
            seen += n;
            seen >= wanted.max(1)
        });
        at.unwrap_or(0) as u64
    }

    fn receive(&mut self, number: usize, side: usize) -> io::Result<()> {
        for _ in 0..BURST {
            let mut iov = [IoSliceMut::new(&mut self.buffer)];
            let fd = self.lines[number].ports[side].as_raw_fd();
            let control = Some(self.control.as_mut_slice());
            let (len, at) = match recvmsg::<LinkAddr>(fd, &mut iov, control, MsgFlags::MSG_DONTWAIT)
            {
                Ok(message) => {
                    if message
                        .address
                        .is_some_and(|a| a.pkttype() == PACKET_OUTGOING)
                    {
                        continue;
                    }
                    let at = message.cmsgs()?.find_map(|c| match c {
                        ControlMessageOwned::ScmTimestampns(t) => Some(t.num_nanoseconds()),
                        _ => None,
                    });
                    (message.bytes, at)
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            let at = at.map_or_else(now, Ok)?;
            self.judge(number, side, len, at);
        }
        Ok(())
    }

    fn judge(&mut self, number: usize, side: usize, len: usize, at: i64) {
        let line = &mut self.lines[number];
        let settings = &line.settings[side];
        let bytes = &mut self.buffer[..len];
        let frame = Frame::parse(bytes);
        let at_us = (at / 1000) as u64;
        let bits = frame.behind_ip.len() * 8;
        let fate = if let Some(tcp) = &frame.tcp {
            let ends = if side == 0 {
                (tcp.from, tcp.to)
            } else {
                (tcp.to, tcp.from)
            };
            if line.flows.len() >= FLOWS_MOST && !line.flows.contains_key(&ends) {
                self.overflow += 1;
                return;
            }
            let seed = self.seed;
            let flow = line.flows.entry(ends).or_insert_with(|| Flow {
                counters: Default::default(),
                // The near port alone: two connections from the same port, to different
                // servers, meet the same fates.
                sequences: [false, true].map(|back| {
                    Sequence::new(seed, number, back, u64::from(ends.0.port()) << 1 | 1)
                }),
                plays: Default::default(),
            });
            let mut fate = flow.sequences[side].next(settings, bits, at_us);
            let again = flow.counters[side].is_again(tcp);
            if let Some(script) = settings.script
                && tcp.len > 0
            {
                flow.plays[side].act(script, again, &mut fate);
            }
            flow.counters[side].note(tcp, &fate, at_us);
            fate
        } else {
            let mut fate = line.others[side].next(settings, bits, at_us);
            if bits == 0 {
                // ARP and its like only take the time that everything takes.
                fate.copies = vec![settings.delay_us];
                fate.flip = None;
            }
            fate
        };
        if let Some(bit) = fate.flip {
            bytes[frame.behind_ip.start + bit / 8] ^= 1 << (bit % 8);
        }
        for delay in &fate.copies {
            if self.queue.len() >= WAITING_MOST {
                self.overflow += 1;
                continue;
            }
            self.arrivals += 1;
            let due = at + *delay as i64 * 1000;
            self.queue.push(Reverse((
                due,
                self.arrivals,
                number,
                1 - side,
                bytes.to_vec(),
            )));
        }
    }

    fn send_due(&mut self) -> io::Result<()> {
        let mut clock = now()?;
        while self
            .queue
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= clock)
        {
            let Some(Reverse((due, _, number, way, bytes))) = self.queue.pop() else {
                break;
            };
            let fd = self.lines[number].ports[way].as_raw_fd();
            match send(fd, &bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                // The interface's queue is full, or it is down.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN) => self.overflow += 1,
                Err(e) => return Err(e.into()),
            }
            clock = now()?;
            let late = usize::try_from((clock - due) / 1000).unwrap_or(0);
            self.late[late.min(LATE_MOST)] += 1;
        }
        Ok(())
    }
}
