//! The name under which SWIM knows a node, and SWIM's messages as bytes.
//!
//! ```text
//! identity  node (2) | incarnation (8) | generation (4)                   14 bytes
//! member    identity | SWIM's incarnation (2) | state (1)                 17
//! header    source identity | SWIM's incarnation (2) | destination identity
//!           | message (1) | probe number (1) | a third identity, by message
//! ```
//!
//! All numbers are big-endian.

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message};

/// A start of a node, and how often it has rejoined since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Node id, from 1 on.
    pub node: u16,
    /// Increases with every start of the node.
    pub incarnation: u64,
    /// Increases whenever the node learns that others had given it up.
    pub generation: u32,
}

impl Identity {
    /// Bytes of one.
    const LEN: usize = 14;

    /// How a node is addressed of which nothing is known yet.
    #[must_use]
    pub const fn unknown(node: u16) -> Self {
        Self {
            node,
            incarnation: 0,
            generation: 0,
        }
    }

    fn put(&self, buf: &mut impl BufMut) {
        buf.put_u16(self.node);
        buf.put_u64(self.incarnation);
        buf.put_u32(self.generation);
    }

    fn get(buf: &mut impl Buf) -> Result<Self, CodecError> {
        let node = buf.try_get_u16().map_err(|_| CodecError::Short)?;
        if node == 0 {
            return Err(CodecError::Invalid);
        }
        Ok(Self {
            node,
            incarnation: buf.try_get_u64().map_err(|_| CodecError::Short)?,
            generation: buf.try_get_u32().map_err(|_| CodecError::Short)?,
        })
    }
}

impl foca::Identity for Identity {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            generation: self.generation.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> u16 {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        (self.incarnation, self.generation) > (other.incarnation, other.generation)
    }
}

/// Why bytes are no message of SWIM, or do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They end too early, or there is no room for more.
    #[error("too short")]
    Short,
    /// A node id of 0, or a message or state that does not exist.
    #[error("invalid value")]
    Invalid,
}

/// SWIM's messages as bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec;

const MEMBER_LEN: usize = Identity::LEN + 3;

const PING: u8 = 1;
const ACK: u8 = 2;
const PING_REQ: u8 = 3;
const INDIRECT_PING: u8 = 4;
const INDIRECT_ACK: u8 = 5;
const FORWARDED_ACK: u8 = 6;
const ANNOUNCE: u8 = 7;
const FEED: u8 = 8;
const GOSSIP: u8 = 9;
const BROADCAST: u8 = 10;
const TURN_UNDEAD: u8 = 11;

/// Tag, probe number and third party of a message.
fn parts(m: &Message<Identity>) -> (u8, u8, Option<Identity>) {
    match m {
        Message::Ping(n) => (PING, *n, None),
        Message::Ack(n) => (ACK, *n, None),
        Message::PingReq {
            target,
            probe_number,
        } => (PING_REQ, *probe_number, Some(*target)),
        Message::IndirectPing {
            origin,
            probe_number,
        } => (INDIRECT_PING, *probe_number, Some(*origin)),
        Message::IndirectAck {
            target,
            probe_number,
        } => (INDIRECT_ACK, *probe_number, Some(*target)),
        Message::ForwardedAck {
            origin,
            probe_number,
        } => (FORWARDED_ACK, *probe_number, Some(*origin)),
        Message::Announce => (ANNOUNCE, 0, None),
        Message::Feed => (FEED, 0, None),
        Message::Gossip => (GOSSIP, 0, None),
        Message::Broadcast => (BROADCAST, 0, None),
        Message::TurnUndead => (TURN_UNDEAD, 0, None),
    }
}

impl foca::Codec<Identity> for Codec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        h: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), CodecError> {
        let (tag, number, third) = parts(&h.message);
        let len = 2 * Identity::LEN + 4 + third.map_or(0, |_| Identity::LEN);
        if buf.remaining_mut() < len {
            return Err(CodecError::Short);
        }
        h.src.put(&mut buf);
        buf.put_u16(h.src_incarnation);
        h.dst.put(&mut buf);
        buf.put_u8(tag);
        buf.put_u8(number);
        if let Some(third) = third {
            third.put(&mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        let src = Identity::get(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| CodecError::Short)?;
        let dst = Identity::get(&mut buf)?;
        let tag = buf.try_get_u8().map_err(|_| CodecError::Short)?;
        let probe_number = buf.try_get_u8().map_err(|_| CodecError::Short)?;
        let mut third = || Identity::get(&mut buf);
        let message = match tag {
            PING => Message::Ping(probe_number),
            ACK => Message::Ack(probe_number),
            PING_REQ => Message::PingReq {
                target: third()?,
                probe_number,
            },
            INDIRECT_PING => Message::IndirectPing {
                origin: third()?,
                probe_number,
            },
            INDIRECT_ACK => Message::IndirectAck {
                target: third()?,
                probe_number,
            },
            FORWARDED_ACK => Message::ForwardedAck {
                origin: third()?,
                probe_number,
            },
            ANNOUNCE => Message::Announce,
            FEED => Message::Feed,
            GOSSIP => Message::Gossip,
            BROADCAST => Message::Broadcast,
            TURN_UNDEAD => Message::TurnUndead,
            _ => return Err(CodecError::Invalid),
        };
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        m: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), CodecError> {
        if buf.remaining_mut() < MEMBER_LEN {
            return Err(CodecError::Short);
        }
        m.id().put(&mut buf);
        buf.put_u16(m.incarnation());
        buf.put_u8(match m.state() {
            foca::State::Alive => 0,
            foca::State::Suspect => 1,
            foca::State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        let id = Identity::get(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| CodecError::Short)?;
        let state = match buf.try_get_u8().map_err(|_| CodecError::Short)? {
            0 => foca::State::Alive,
            1 => foca::State::Suspect,
            2 => foca::State::Down,
            _ => return Err(CodecError::Invalid),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;
    use proptest::prelude::*;

    fn identity() -> impl Strategy<Value = Identity> {
        (1u16.., any::<u64>(), any::<u32>()).prop_map(|(node, incarnation, generation)| Identity {
            node,
            incarnation,
            generation,
        })
    }

    fn message() -> impl Strategy<Value = Message<Identity>> {
        (0..11u8, any::<u8>(), identity()).prop_map(|(kind, n, id)| match kind {
            0 => Message::Ping(n),
            1 => Message::Ack(n),
            2 => Message::PingReq {
                target: id,
                probe_number: n,
            },
            3 => Message::IndirectPing {
                origin: id,
                probe_number: n,
            },
            4 => Message::IndirectAck {
                target: id,
                probe_number: n,
            },
            5 => Message::ForwardedAck {
                origin: id,
                probe_number: n,
            },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn headers_survive(src in identity(), dst in identity(), i: u16, m in message()) {
            let h = Header { src, src_incarnation: i, dst, message: m };
            let mut bytes = Vec::new();
            Codec.encode_header(&h, &mut bytes).unwrap();
            let mut rest = &bytes[..];
            prop_assert_eq!(Codec.decode_header(&mut rest), Ok(h));
            prop_assert!(rest.is_empty());
            for len in 0..bytes.len() {
                prop_assert!(Codec.decode_header(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn members_survive(id in identity(), i: u16, s in 0..3u8) {
            let state = [foca::State::Alive, foca::State::Suspect, foca::State::Down];
            let m = Member::new(id, i, state[usize::from(s)]);
            let mut bytes = Vec::new();
            Codec.encode_member(&m, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), MEMBER_LEN);
            prop_assert_eq!(Codec.decode_member(&bytes[..]), Ok(m));
            let mut short = [0; MEMBER_LEN - 1];
            let m = Member::alive(id);
            prop_assert_eq!(Codec.encode_member(&m, &mut short[..]), Err(CodecError::Short));
        }

        #[test]
        fn noise_is_an_error_or_a_value(bytes: Vec<u8>) {
            let _ = Codec.decode_header(&bytes[..]);
            let _ = Codec.decode_member(&bytes[..]);
        }
    }

    #[test]
    fn later_starts_win_and_then_later_generations() {
        use foca::Identity as _;
        let a = Identity {
            node: 1,
            incarnation: 5,
            generation: 9,
        };
        let again = a.renew().unwrap();
        let restarted = Identity {
            incarnation: 6,
            generation: 0,
            ..a
        };
        assert!(again.win_addr_conflict(&a) && !a.win_addr_conflict(&again));
        assert!(restarted.win_addr_conflict(&again) && !again.win_addr_conflict(&restarted));
    }
}
