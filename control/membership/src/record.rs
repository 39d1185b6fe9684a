//! What a node tells of itself.

use std::net::IpAddr;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a node takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// New connections by its weight.
    Active = 0,
    /// Nothing new; what it has lives on.
    Draining = 1,
    /// Nothing new as long as any active member could take it.
    Standby = 2,
    /// It has said goodbye.
    Left = 3,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Active, Self::Draining, Self::Standby, Self::Left];

    /// The word in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::Left => "left",
        }
    }
}

/// What a node's TCP stack agrees to, and its window shift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCaps {
    /// Timestamps (RFC 7323).
    pub timestamps: bool,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// The shift that it offers, 0 to 14; `None` without window scaling (RFC 7323).
    pub window_shift: Option<u8>,
}

/// Major, minor and patch number of the software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(pub [u8; 3]);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What a node tells of itself. The one with the highest (incarnation, sequence) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id, from 1 on.
    pub node: u16,
    /// Its start, microseconds since the epoch.
    pub incarnation: u64,
    /// Increases with every change within an incarnation.
    pub sequence: u32,
    /// What it takes on.
    pub state: State,
    /// Its draining is over: no connection is left.
    pub drained: bool,
    /// Share of new connections, 0 to 100.
    pub weight: u8,
    /// Its address on the link.
    pub link: IpAddr,
    /// Its Ethernet address on the link.
    pub link_mac: [u8; 6],
    /// What its TCP stack agrees to.
    pub tcp: TcpCaps,
    /// Bit `i`: its application of service `i`, in the configuration's order, is well.
    /// Services from 63 on share the last bit.
    pub health: u64,
    /// Connections that it has.
    pub load: u32,
    /// Of the software.
    pub version: Version,
    /// Digest of what all configurations must agree on.
    pub config: u64,
    /// The epoch of the view by which it works.
    pub epoch: u64,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid record")]
pub struct RecordError;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    node: U16,
    state: u8,
    weight: u8,
    sequence: U32,
    incarnation: U64,
    link: [u8; 16],
    link_mac: [u8; 6],
    flags: u8,
    window_shift: u8,
    health: U64,
    config: U64,
    epoch: U64,
    load: U32,
    version: [u8; 3],
    zero: u8,
}

const IPV6: u8 = 1;
const TIMESTAMPS: u8 = 2;
const SACK: u8 = 4;
const WINDOW_SCALE: u8 = 8;
const DRAINED: u8 = 16;
const FLAGS: u8 = 31;
/// Largest window shift (RFC 7323, section 2.3).
const SHIFT_MAX: u8 = 14;

impl Record {
    /// Bytes of a record.
    pub const LEN: usize = size_of::<Raw>();

    /// Which of two records of a node is the later one.
    #[must_use]
    pub const fn age(&self) -> (u64, u32) {
        (self.incarnation, self.sequence)
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let link = match self.link {
            IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            IpAddr::V6(a) => a.octets(),
        };
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let raw = Raw {
            node: self.node.into(),
            state: self.state as u8,
            weight: self.weight,
            sequence: self.sequence.into(),
            incarnation: self.incarnation.into(),
            link,
            link_mac: self.link_mac,
            flags: flag(self.link.is_ipv6(), IPV6)
                | flag(self.tcp.timestamps, TIMESTAMPS)
                | flag(self.tcp.sack, SACK)
                | flag(self.tcp.window_shift.is_some(), WINDOW_SCALE)
                | flag(self.drained, DRAINED),
            window_shift: self.tcp.window_shift.unwrap_or(0),
            health: self.health.into(),
            config: self.config.into(),
            epoch: self.epoch.into(),
            load: self.load.into(),
            version: self.version.0,
            zero: 0,
        };
        out.extend_from_slice(raw.as_bytes());
    }

    /// Reads exactly [`Record::LEN`] bytes.
    ///
    /// # Errors
    /// Another length, or a value out of its range.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let raw = Raw::ref_from_bytes(bytes).map_err(|_| RecordError)?;
        let state = State::ALL.get(usize::from(raw.state)).ok_or(RecordError)?;
        let v6 = std::net::Ipv6Addr::from(raw.link);
        let link = match (raw.flags & IPV6 != 0, v6.to_ipv4_mapped()) {
            (false, Some(v4)) => IpAddr::V4(v4),
            (true, _) => IpAddr::V6(v6),
            (false, None) => return Err(RecordError),
        };
        let scales = raw.flags & WINDOW_SCALE != 0;
        let valid = raw.node.get() != 0
            && raw.weight <= 100
            && raw.flags & !FLAGS == 0
            && raw.zero == 0
            && raw.window_shift <= if scales { SHIFT_MAX } else { 0 };
        if !valid {
            return Err(RecordError);
        }
        Ok(Self {
            node: raw.node.get(),
            incarnation: raw.incarnation.get(),
            sequence: raw.sequence.get(),
            state: *state,
            drained: raw.flags & DRAINED != 0,
            weight: raw.weight,
            link,
            link_mac: raw.link_mac,
            tcp: TcpCaps {
                timestamps: raw.flags & TIMESTAMPS != 0,
                sack: raw.flags & SACK != 0,
                window_shift: scales.then_some(raw.window_shift),
            },
            health: raw.health.get(),
            load: raw.load.get(),
            version: Version(raw.version),
            config: raw.config.get(),
            epoch: raw.epoch.get(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        let who = (
            1u16..,
            any::<u64>(),
            any::<u32>(),
            any::<IpAddr>(),
            any::<[u8; 6]>(),
        );
        let what = (0..4usize, 0..=100u8, any::<[bool; 3]>());
        let tcp = proptest::option::of(0..=14u8);
        let rest = (any::<[u64; 3]>(), any::<u32>(), any::<[u8; 3]>());
        (who, what, tcp, rest).prop_map(|(who, what, window_shift, rest)| {
            let (node, incarnation, sequence, link, link_mac) = who;
            let (state, weight, [timestamps, sack, drained]) = what;
            let ([health, config, epoch], load, version) = rest;
            Record {
                node,
                incarnation,
                sequence,
                state: State::ALL[state],
                drained,
                weight,
                link,
                link_mac,
                tcp: TcpCaps {
                    timestamps,
                    sack,
                    window_shift,
                },
                health,
                load,
                version: Version(version),
                config,
                epoch,
            }
        })
    }

    proptest! {
        #[test]
        fn records_survive(r in any_record()) {
            let mut bytes = Vec::new();
            r.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), Record::LEN);
            prop_assert_eq!(Record::decode(&bytes), Ok(r));
            prop_assert!(Record::decode(&bytes[1..]).is_err());
        }

        #[test]
        fn what_is_read_is_written_again(mut bytes in proptest::collection::vec(any::<u8>(), Record::LEN)) {
            // Most noise is invalid: half of it is brought near to a record.
            bytes[2] %= 5;
            bytes[3] %= 102;
            bytes[Record::LEN - 1] %= 2;
            if let Ok(r) = Record::decode(&bytes) {
                let mut again = Vec::new();
                r.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let good = Record {
            node: 1,
            incarnation: 2,
            sequence: 3,
            state: State::Standby,
            drained: false,
            weight: 100,
            link: [10, 77, 1, 1].into(),
            link_mac: [2; 6],
            tcp: TcpCaps {
                timestamps: true,
                sack: true,
                window_shift: Some(14),
            },
            health: 1,
            load: 5,
            version: Version([0, 1, 0]),
            config: 7,
            epoch: 8,
        };
        let mut bytes = Vec::new();
        good.encode(&mut bytes);
        assert_eq!(Record::decode(&bytes), Ok(good));
        // State, weight, window shift, unknown flag, node 0, an IPv4 address that is none.
        for (at, value) in [
            (2, 4),
            (3, 101),
            (39, 15),
            (38, 32),
            (1, 0),
            (26, 0),
            (71, 1),
        ] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert_eq!(Record::decode(&bad), Err(RecordError), "byte {at}");
        }
    }
}
