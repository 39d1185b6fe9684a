//! A client-side capture as tshark judges it.

use crate::lab::Lab;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// tshark's fields for what a client must never see in a handover without loss.
const ANALYSIS: [(&str, &str); 7] = [
    ("retransmission", "tcp.analysis.retransmission"),
    ("fast retransmission", "tcp.analysis.fast_retransmission"),
    (
        "spurious retransmission",
        "tcp.analysis.spurious_retransmission",
    ),
    ("duplicate ACK", "tcp.analysis.duplicate_ack"),
    ("zero window", "tcp.analysis.zero_window"),
    ("out of order", "tcp.analysis.out_of_order"),
    ("lost segment", "tcp.analysis.lost_segment"),
];
const FIELDS: [&str; 13] = [
    "frame.number",
    "frame.time_relative",
    "eth.src",
    "ip.src",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.stream",
    "tcp.flags",
    "tcp.len",
    "ip.checksum.status",
    "tcp.checksum.status",
    "tcp.seq_raw",
    "ipv6.src",
];
const FIN: u32 = 0x01;
const SYN: u32 = 0x02;
const RST: u32 = 0x04;
const ACK: u32 = 0x10;

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The client's port.
    pub port: u16,
    /// Nodes that sent a SYN-ACK, in order.
    pub owners: Vec<u16>,
    /// The sequence numbers of those SYN-ACKs.
    pub isns: Vec<u32>,
    /// Frame numbers of RSTs, but for those behind `late_synack`.
    pub resets: Vec<u64>,
    /// A SYN-ACK came when both sides had sent their FIN: a late one of another owner's.
    /// The client answers it by an RST, or in TIME-WAIT by an ACK (RFC 9293, section
    /// 3.10.7.4), to which the server, whose socket is gone, sends one. Nobody is reset.
    pub late_synack: bool,
    /// Node that sent the first byte of an answer.
    pub server: u16,
    /// The client's first and last payload frame before the answer, seconds.
    pub asked: Option<f64>,
    /// The first byte of the answer, seconds.
    pub answered: Option<f64>,
    /// Whose FIN came first: `Some(true)` for the client's.
    pub client_closed_first: Option<bool>,
    /// The other side's came too.
    both_closed: bool,
}

/// A capture.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// The file.
    pub path: PathBuf,
    /// TCP frames.
    pub frames: usize,
    /// Everything that is wrong, with its frame number.
    pub anomalies: Vec<(&'static str, u64)>,
    /// Frame numbers of RSTs.
    pub resets: Vec<u64>,
    /// By tshark's number.
    pub streams: BTreeMap<u32, Stream>,
}

impl Capture {
    /// Lets tshark analyse `path`.
    ///
    /// # Panics
    /// tshark failed.
    #[must_use]
    pub fn read(lab: &Lab, path: &Path) -> Self {
        Self::read_of(lab, path, "tcp")
    }

    /// The same of what a filter in tshark's language shows, TCP all of it.
    pub fn read_of(lab: &Lab, path: &Path, filter: &str) -> Self {
        let mut tshark = Command::new("tshark");
        tshark.arg("-n").arg("-r").arg(path);
        tshark.args([
            "-Y",
            filter,
            "-o",
            "tcp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
        ]);
        tshark.args(["-T", "fields", "-E", "occurrence=f"]);
        let analysis = ANALYSIS.iter().map(|(_, field)| *field);
        for field in FIELDS
            .into_iter()
            .chain(["tcp.checksum.ffff"])
            .chain(analysis)
        {
            tshark.args(["-e", field]);
        }
        let done = tshark.output().unwrap_or_else(|e| panic!("tshark: {e}"));
        assert!(
            done.status.success(),
            "tshark: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let mut capture = Self {
            path: path.into(),
            ..Self::default()
        };
        for line in String::from_utf8_lossy(&done.stdout).lines() {
            capture.frame(lab, &line.split('\t').collect::<Vec<_>>());
        }
        assert!(capture.frames > 0, "{} has no TCP frame", path.display());
        capture
    }

    fn frame(&mut self, lab: &Lab, row: &[&str]) {
        let field = |i: usize| row.get(i).copied().unwrap_or("");
        let number = |i: usize| field(i).parse::<u64>().unwrap_or(0);
        let (frame, time) = (number(0), field(1).parse::<f64>().unwrap_or(0.0));
        let from_client = lab.is_client(field(3)) || lab.is_client(field(12));
        let flags = u32::from_str_radix(field(7).trim_start_matches("0x"), 16).unwrap_or(0);
        let payload = number(8) > 0;
        self.frames += 1;
        for (i, (name, _)) in ANALYSIS.iter().enumerate() {
            if !field(FIELDS.len() + 1 + i).is_empty() {
                self.anomalies.push((name, frame));
            }
        }
        // 0 is tshark's word for bad. Linux writes a TCP checksum of 0 as 0xffff where
        // it sums in software; every receiver takes the two zeros of one's complement
        // for the same, tshark calls the second one bad.
        if field(9) == "0" || field(10) == "0" && field(FIELDS.len()).is_empty() {
            self.anomalies.push(("bad checksum", frame));
        }
        if flags & RST != 0 {
            self.resets.push(frame);
        }
        let stream = self.streams.entry(number(6) as u32).or_default();
        if flags & RST != 0 && !stream.late_synack {
            stream.resets.push(frame);
        }
        stream.port = number(if from_client { 4 } else { 5 }) as u16;
        if flags & FIN != 0 {
            stream.both_closed |=
                *stream.client_closed_first.get_or_insert(from_client) != from_client;
        }
        let node = lab.node_of_mac(field(2));
        if from_client {
            if payload && stream.answered.is_none() {
                stream.asked = Some(time);
            }
        } else if flags & (SYN | ACK) == SYN | ACK {
            stream.late_synack |= stream.both_closed;
            stream.owners.push(node);
            stream.isns.push(number(11) as u32);
        } else if payload && stream.answered.is_none() {
            stream.answered = Some(time);
            stream.server = node;
        }
    }

    /// Times from the last byte of the request to the first one of the answer,
    /// milliseconds, by stream.
    pub fn first_bytes(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.streams
            .iter()
            .filter_map(|(n, s)| Some((*n, (s.answered? - s.asked?) * 1e3)))
    }

    /// Fails with the list of what is wrong, if anything is.
    ///
    /// # Panics
    /// There is an anomaly or a reset.
    pub fn assert_clean(&self) {
        assert!(
            self.anomalies.is_empty() && self.resets.is_empty(),
            "{self}"
        );
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} frames in {} connections",
            self.path.display(),
            self.frames,
            self.streams.len()
        )?;
        let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (name, frame) in &self.anomalies {
            by_name.entry(name).or_default().push(*frame);
        }
        by_name.insert("reset", self.resets.clone());
        for (name, frames) in by_name.iter().filter(|(_, frames)| !frames.is_empty()) {
            let first: Vec<_> = frames.iter().take(8).collect();
            write!(f, "; {} x {name} (frames {first:?})", frames.len())?;
        }
        Ok(())
    }
}
