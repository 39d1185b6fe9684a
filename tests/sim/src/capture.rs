//! What each party saw, as pcapng with an interface for each of them.

use dts_core::frame::Port;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

/// Whose interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A client's.
    Client(usize),
    /// A port of a node.
    Node(u16, Port),
    /// A node's stack, at its end of the host port.
    Host(u16),
}

impl Party {
    fn name(self) -> String {
        match self {
            Party::Client(i) => format!("client{i}"),
            Party::Node(id, port) => format!("node{id}-{}", port.name()),
            Party::Host(id) => format!("host{id}"),
        }
    }
}

/// The frames of a run.
#[derive(Debug, Default)]
pub struct Capture {
    frames: Vec<(Party, u64, Vec<u8>)>,
}

impl Capture {
    /// Adds a frame.
    pub fn frame(&mut self, party: Party, at: u64, bytes: &[u8]) {
        self.frames.push((party, at, bytes.to_vec()));
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes pcapng.
    ///
    /// # Errors
    /// What writing says.
    pub fn write(&self, to: impl Write) -> Result<(), pcap_file::PcapError> {
        let mut w = PcapNgWriter::new(to)?;
        let mut parties: Vec<Party> = self.frames.iter().map(|f| f.0).collect();
        parties.sort_unstable();
        parties.dedup();
        for p in &parties {
            let mut b = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0xffff);
            let name = InterfaceDescriptionOption::IfName(Cow::Owned(p.name()));
            b.options.push(name);
            b.options.push(InterfaceDescriptionOption::IfTsResol(9));
            w.write_pcapng_block(b)?;
        }
        for (p, at, bytes) in &self.frames {
            let id = parties.binary_search(p).unwrap_or(0) as u32;
            w.write_pcapng_block(EnhancedPacketBlock {
                interface_id: id,
                timestamp: Duration::from_nanos(*at),
                original_len: bytes.len() as u32,
                data: Cow::Borrowed(bytes),
                options: Vec::new(),
            })?;
        }
        Ok(())
    }
}
