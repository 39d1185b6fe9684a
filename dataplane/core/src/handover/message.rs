//! Link messages: sending, and the judgement of what comes in.

use crate::drops::Drop;
use crate::frame::{Frame, Output, Port};
use crate::key::Addr;
use crate::mutation::{Mutation, broken};
use crate::shard::Shard;
use crate::time::Instant;
use crate::view::View;
use crate::wire::build::Tcp;
use crate::wire::options::Build;
use crate::wire::tcp::Segment;
use crate::wire::{self, Ip, L3, Mac, PROTO_TCP};
use dts_proto::block::{self, BlockError, Fields, FlowId, Header, Kind};

/// Where a message goes: the other end of a splice connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Node id.
    pub node: u16,
    /// Incarnation that the message is for.
    pub incarnation: u64,
    /// Link MAC.
    pub mac: Mac,
    /// Link address.
    pub addr: Addr,
    /// Its port of the splice connection.
    pub port: u16,
    /// Ours.
    pub local_port: u16,
}

/// The TCP header of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window: 0 but in answers of the paper's form, whose source must be let send.
    pub window: u16,
    /// Options.
    pub opts: Build,
}

/// A message as it came in.
#[derive(Debug)]
pub struct Message<'a> {
    /// The block.
    pub header: Header,
    /// Its fields.
    pub fields: Fields,
    /// The bytes behind it.
    pub body: &'a [u8],
    /// The segment's acknowledgement number.
    pub ack: u32,
    /// The segment's sequence number.
    pub seq: u32,
    /// The segment's flags.
    pub flags: u8,
    /// Who sent it, as the address of an answer.
    pub peer: Peer,
}

/// What the authenticator covers beside the payload: the tuple and the numbers
/// of the segment.
pub fn context(src: &Addr, dst: &Addr, sport: u16, dport: u16, head: (u32, u32, u8)) -> [u8; 45] {
    let mut c = [0; 45];
    c[..16].copy_from_slice(&src.0);
    c[16..32].copy_from_slice(&dst.0);
    c[32..34].copy_from_slice(&sport.to_be_bytes());
    c[34..36].copy_from_slice(&dport.to_be_bytes());
    c[36..40].copy_from_slice(&head.0.to_be_bytes());
    c[40..44].copy_from_slice(&head.1.to_be_bytes());
    c[44] = head.2;
    c
}

impl Shard {
    /// Sends a message. Its payload is the block, then `body`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn say<O: Output>(
        &mut self,
        v: &View,
        to: &Peer,
        kind: Kind,
        flow: FlowId,
        fields: &Fields,
        head: Head,
        body: &[u8],
        out: &mut O,
    ) {
        self.message_counter += 1;
        let header = Header {
            kind,
            key_id: v.keys[0].id,
            sender: v.node,
            worker: self.worker as u16,
            sender_incarnation: v.incarnation,
            receiver_incarnation: to.incarnation,
            counter: self.message_counter,
            flow,
        };
        let mut payload = Vec::with_capacity(v.params.mtu);
        block::write(&mut payload, &header, fields);
        payload.extend_from_slice(body);
        let c = context(
            &v.link,
            &to.addr,
            to.local_port,
            to.port,
            (head.seq, head.ack, head.flags),
        );
        block::seal(&mut payload, &v.keys[0], &c);
        self.say_bare(v, to, head, &payload, out);
    }

    /// Sends a segment of a splice connection without a block.
    pub(crate) fn say_bare<O: Output>(
        &mut self,
        v: &View,
        to: &Peer,
        head: Head,
        payload: &[u8],
        out: &mut O,
    ) {
        let f = Tcp {
            eth_dst: to.mac,
            eth_src: v.link_mac,
            src: v.link,
            dst: to.addr,
            sport: to.local_port,
            dport: to.port,
            seq: head.seq,
            ack: head.ack,
            flags: head.flags,
            window: head.window,
            opts: head.opts,
            payload,
        }
        .frame();
        if to.addr == v.link {
            self.loopback.push_back(f);
        } else {
            self.emit(Port::Link, &f, out);
        }
    }

    /// Payload bytes behind the block that fit into one segment.
    pub(crate) fn room(v: &View, opts: &Build, fields: &Fields) -> usize {
        let mut b = Vec::with_capacity(256);
        let nobody = block::v4([0; 4], 0);
        let flow = FlowId {
            client: nobody,
            vip: nobody,
            c_isn: 0,
            s_isn: 0,
            source: 0,
            source_incarnation: 0,
            number: 0,
        };
        let header = Header {
            kind: Kind::Data,
            key_id: 0,
            sender: 0,
            worker: 0,
            sender_incarnation: 0,
            receiver_incarnation: 0,
            counter: 0,
            flow,
        };
        block::write(&mut b, &header, fields);
        v.params.mtu - Ip::header_len(&v.link) - 20 - opts.bytes().1 - b.len()
    }

    pub(crate) fn link_in<O: Output>(
        &mut self,
        v: &View,
        frame: O::Frame,
        now: Instant,
        out: &mut O,
    ) {
        let Some(eth) = wire::eth(frame.head()) else {
            return self.drop_frame(Drop::Malformed);
        };
        if eth.src == v.link_mac {
            return self.drop_frame(Drop::OwnEcho);
        }
        match wire::l3_of(&frame) {
            Err(bad) => self.drop_frame(bad.into()),
            // A later fragment bears no port, and a stack puts all together.
            Ok(L3::Ip(ip)) if ip.fragment && (ip.may_be_tcp() || v.is_replayed_to(&ip.dst)) => {
                self.drop_frame(Drop::Fragment)
            }
            Ok(L3::Ip(ip)) if ip.proto == PROTO_TCP => {
                let dport = wire::tcp::ports(frame.head(), &ip).map(|(_, d)| d);
                let hidden = dport.is_some_and(|d| v.is_hidden(d));
                let spliced = dport.is_some_and(|d| v.is_app_port(d) || v.is_splice_port(d));
                if broken(Mutation::LinkToHost) {
                    out.send(Port::LinkHost, frame);
                } else if ip.dst == v.link && (hidden || spliced) {
                    if frame.head().len() == frame.len() {
                        self.link_message(v, frame.head(), now, out);
                    } else {
                        self.link_message(v, &frame.to_vec(), now, out);
                    }
                } else if hidden || v.is_vip(&ip.dst) {
                    // The stack would take it by any interface, whatever it is for.
                    self.drop_frame(Drop::HiddenPort);
                } else {
                    out.send(Port::LinkHost, frame);
                }
            }
            Ok(_) => out.send(Port::LinkHost, frame),
        }
    }

    pub(crate) fn link_host_in<O: Output>(&mut self, v: &View, frame: O::Frame, out: &mut O) {
        match wire::l3_of(&frame) {
            // What is not read must not hide a port of ours.
            Err(bad) => return self.drop_frame(bad.into()),
            Ok(L3::Ip(ip)) if ip.proto == PROTO_TCP => {
                if let Some((sport, dport)) = wire::tcp::ports(frame.head(), &ip)
                    && (v.is_app_port(sport)
                        || v.is_hidden(sport)
                        || v.is_splice_port(sport) && v.is_app_port(dport))
                {
                    return self.drop_frame(Drop::HostWithoutFlow);
                }
            }
            Ok(_) => {}
        }
        out.send(Port::Link, frame);
    }

    /// A segment of a splice connection, from the link or from this node.
    pub(crate) fn link_message<O: Output>(
        &mut self,
        v: &View,
        bytes: &[u8],
        now: Instant,
        out: &mut O,
    ) {
        let (Ok(L3::Ip(ip)), Some(eth)) = (wire::l3(bytes), wire::eth(bytes)) else {
            return self.drop_frame(Drop::Malformed);
        };
        let Ok(s) = Segment::parse(bytes, &ip) else {
            return self.drop_frame(Drop::Malformed);
        };
        if !s.checksum_ok(bytes, &ip) {
            return self.drop_frame(Drop::BadChecksum);
        }
        let mut payload = std::borrow::Cow::Borrowed(&bytes[s.data..s.end]);
        let c = context(&ip.src, &ip.dst, s.sport, s.dport, (s.seq, s.ack, s.flags));
        if broken(Mutation::Unauthenticated) && payload.len() >= block::FIXED_LEN {
            block::seal(payload.to_mut(), &v.keys[0], &c);
        }
        let payload = &payload[..];
        let keys = if broken(Mutation::FirstKeyOnly) {
            &v.keys[..1]
        } else {
            &v.keys
        };
        match block::open(payload, keys, &c) {
            Err(BlockError::Absent) => self.link_bare(v, bytes, &ip, &s, eth.src, now, out),
            Err(BlockError::Malformed | BlockError::Forged) => self.drop_frame(Drop::BlockForged),
            Ok((header, fields, n)) => {
                let peer = Peer {
                    node: header.sender,
                    incarnation: header.sender_incarnation,
                    mac: eth.src,
                    addr: ip.src,
                    port: s.sport,
                    local_port: s.dport,
                };
                let m = Message {
                    header,
                    fields,
                    body: &payload[n..],
                    ack: s.ack,
                    seq: s.seq,
                    flags: s.flags,
                    peer,
                };
                self.judge(v, &m, &ip, now, out);
            }
        }
    }

    /// An authentic block: is its sender a member, is it new, is it for us?
    fn judge<O: Output>(&mut self, v: &View, m: &Message<'_>, ip: &Ip, now: Instant, out: &mut O) {
        let h = &m.header;
        let stranger = match v.member(h.sender) {
            None => true,
            Some(member) => {
                member.link != ip.src
                    || member
                        .known
                        .is_some_and(|(_, newest)| h.sender_incarnation < newest)
            }
        };
        // A block has one family, for both addresses.
        debug_assert_eq!(h.flow.client.is_ipv4(), h.flow.vip.is_ipv4());
        if stranger {
            return self.drop_frame(Drop::LinkStranger);
        }
        let stream = (h.sender, h.sender_incarnation, h.worker);
        if !self.windows.contains_key(&stream) {
            // An earlier incarnation of the sender is dead, and so are its counters.
            self.windows
                .retain(|k, _| k.0 != h.sender || k.1 >= h.sender_incarnation);
        }
        let new = self.windows.entry(stream).or_default().accept(h.counter);
        if !new && !broken(Mutation::ReplayProtectionOff) {
            return self.drop_frame(Drop::BlockReplayed);
        }
        if h.receiver_incarnation != v.incarnation && !broken(Mutation::IncarnationUnchecked) {
            if h.kind == Kind::Splice {
                self.refuse(v, m, block::Reason::Incarnation, now, out);
            }
            return self.drop_frame(Drop::BlockIncarnation);
        }
        let owner = (h.flow.source, h.flow.source_incarnation);
        if h.kind.from_source() && owner != (h.sender, h.sender_incarnation) {
            // Nobody speaks of another node's handovers.
            if h.kind == Kind::Splice {
                self.refuse(v, m, block::Reason::Malformed, now, out);
            }
            return self.drop_frame(Drop::LinkStranger);
        }
        let right_way = if h.kind.from_source() {
            v.is_app_port(m.peer.local_port)
        } else {
            v.is_splice_port(m.peer.local_port)
        };
        if !right_way {
            return self.drop_frame(Drop::LinkStranger);
        }
        self.counters.link_messages += 1;
        match h.kind {
            Kind::Who => self.who_has(v, m, out),
            Kind::Mine | Kind::NotMine => self.claimed(v, m, now, out),
            kind if kind.from_source() => self.destination_message(v, m, now, out),
            _ => self.source_message(v, m, now, out),
        }
    }
}
