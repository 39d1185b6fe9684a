//! TCP options (RFC 9293, section 3.2, and the registry of kinds).

/// Kinds that we name.
pub mod kind {
    /// End of options.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293).
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const WSCALE: u8 = 3;
    /// SACK permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK blocks (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
    /// TCP-MD5 (RFC 2385).
    pub const MD5: u8 = 19;
    /// TCP-AO (RFC 5925).
    pub const AO: u8 = 29;
    /// The splice option (DTS paper, table 1).
    pub const SPLICE: u8 = 32;
}

/// The paper's option 32: client address and port, and the sequence number of
/// the intake's SYN-ACK (DTS paper, figure 5 and table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpliceOption {
    /// DTSraddr.
    pub client: [u8; 4],
    /// DTSrport.
    pub port: u16,
    /// DTSinitseq.
    pub init_seq: u32,
}

impl SpliceOption {
    /// Bytes on the wire.
    pub const LEN: usize = 12;

    /// Kind 32, length 12, then the fields in network byte order.
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[0] = kind::SPLICE;
        b[1] = Self::LEN as u8;
        b[2..6].copy_from_slice(&self.client);
        b[6..8].copy_from_slice(&self.port.to_be_bytes());
        b[8..12].copy_from_slice(&self.init_seq.to_be_bytes());
        b
    }
}

/// The options of one segment. Offsets count from the start of the options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// MSS, bytes.
    pub mss: Option<u16>,
    /// Window shift, at most 14 (RFC 7323, section 2.3).
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack_permitted: bool,
    /// TSval, TSecr, and the offset of TSval.
    pub timestamps: Option<(u32, u32, usize)>,
    /// Offset of the first SACK block and the number of blocks.
    pub sack: Option<(usize, usize)>,
    /// Option 32 is there, well-formed or not.
    pub splice_kind: bool,
    /// Option 32.
    pub splice: Option<SpliceOption>,
    /// TCP-MD5 or TCP-AO is there.
    pub auth: bool,
    /// Kinds other than END, NOP, MSS, window scale, SACK and timestamps.
    pub others: bool,
}

#[inline]
fn be32(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

impl Options {
    /// Reads the options as [`Self::read`] does; those of an established connection's
    /// segments, which stacks align (RFC 7323, appendix A), by a look at their kinds.
    #[inline]
    pub fn parse(o: &[u8]) -> Self {
        Self::usual(o).unwrap_or_else(|| Self::read(o))
    }

    /// Reads the options of a segment that has none, or timestamps first and SACK blocks
    /// behind them, aligned; `None` where they are others.
    #[inline(always)]
    pub fn usual(o: &[u8]) -> Option<Self> {
        const TS: u32 = u32::from_be_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
        let mut r = Self::default();
        if o.is_empty() {
            return Some(r);
        }
        let ts = o.first_chunk::<12>().filter(|ts| be32(&ts[..]) == TS)?;
        r.timestamps = Some((be32(&ts[4..]), be32(&ts[8..]), 4));
        if o.len() == 12 {
            return Some(r);
        }
        let blocks = o.len().saturating_sub(16) / 8;
        let sack = [kind::NOP, kind::NOP, kind::SACK, (2 + blocks * 8) as u8];
        if blocks == 0 || !o.len().is_multiple_of(8) || o[12..16] != sack {
            return None;
        }
        r.sack = Some((16, blocks));
        Some(r)
    }

    /// Reads the options. A malformed tail ends the reading, as in Linux; what
    /// came before it holds.
    pub fn read(o: &[u8]) -> Self {
        let mut r = Self::default();
        let mut i = 0;
        while i < o.len() {
            match o[i] {
                kind::END => break,
                kind::NOP => {
                    i += 1;
                    continue;
                }
                _ => {}
            }
            if o[i] == kind::SPLICE {
                r.splice_kind = true;
            }
            let Some(&len) = o.get(i + 1) else { break };
            let len = usize::from(len);
            if len < 2 || i + len > o.len() {
                break;
            }
            let v = &o[i + 2..i + len];
            match (o[i], len) {
                (kind::MSS, 4) => r.mss = Some(u16::from_be_bytes([v[0], v[1]])),
                (kind::WSCALE, 3) => r.wscale = Some(v[0].min(14)),
                (kind::SACK_PERMITTED, 2) => r.sack_permitted = true,
                (kind::TIMESTAMPS, 10) => r.timestamps = Some((be32(v), be32(&v[4..]), i + 2)),
                (kind::SACK, n) if n >= 10 && (n - 2) % 8 == 0 => {
                    r.sack = Some((i + 2, (n - 2) / 8))
                }
                (kind::SPLICE, SpliceOption::LEN) => {
                    r.splice = Some(SpliceOption {
                        client: [v[0], v[1], v[2], v[3]],
                        port: u16::from_be_bytes([v[4], v[5]]),
                        init_seq: be32(&v[6..]),
                    });
                    r.others = true;
                }
                (kind::MD5 | kind::AO, _) => {
                    r.auth = true;
                    r.others = true;
                }
                _ => r.others = true,
            }
            i += len;
        }
        r
    }
}

/// Options of a segment that we make, in the order that Linux uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// MSS, on a SYN.
    pub mss: Option<u16>,
    /// SACK permitted, on a SYN.
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Window shift, on a SYN.
    pub wscale: Option<u8>,
    /// Option 32, on a splice SYN.
    pub splice: Option<SpliceOption>,
}

impl Build {
    /// The options, padded to a multiple of four bytes; at most 40.
    pub fn bytes(&self) -> ([u8; 40], usize) {
        let mut b = [0u8; 40];
        let mut n = 0;
        let mut put = |v: &[u8]| {
            b[n..n + v.len()].copy_from_slice(v);
            n += v.len();
        };
        if let Some(m) = self.mss {
            let [h, l] = m.to_be_bytes();
            put(&[kind::MSS, 4, h, l]);
        }
        if let Some((val, ecr)) = self.timestamps {
            // SACK permitted fills the two bytes that would otherwise be padding.
            put(if self.sack_permitted {
                &[kind::SACK_PERMITTED, 2]
            } else {
                &[kind::NOP, kind::NOP]
            });
            put(&[kind::TIMESTAMPS, 10]);
            put(&val.to_be_bytes());
            put(&ecr.to_be_bytes());
        } else if self.sack_permitted {
            put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        if let Some(s) = self.wscale {
            put(&[kind::NOP, kind::WSCALE, 3, s]);
        }
        if let Some(s) = self.splice {
            put(&s.bytes());
        }
        (b, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn option_32_is_the_papers_table_1() {
        let s = SpliceOption {
            client: [192, 0, 2, 7],
            port: 0x1234,
            init_seq: 0xdead_beef,
        };
        assert_eq!(
            s.bytes(),
            [32, 12, 192, 0, 2, 7, 0x12, 0x34, 0xde, 0xad, 0xbe, 0xef]
        );
        assert_eq!(Options::parse(&s.bytes()).splice, Some(s));
    }

    #[test]
    fn value_bytes_value_and_all_fit() {
        let splice = SpliceOption {
            client: [1, 2, 3, 4],
            port: 5,
            init_seq: 6,
        };
        for bits in 0..32u8 {
            let b = Build {
                mss: (bits & 1 != 0).then_some(1460),
                sack_permitted: bits & 2 != 0,
                timestamps: (bits & 4 != 0).then_some((7, 8)),
                wscale: (bits & 8 != 0).then_some(9),
                splice: (bits & 16 != 0).then_some(splice),
            };
            let (bytes, n) = b.bytes();
            assert_eq!(n % 4, 0);
            let o = Options::parse(&bytes[..n]);
            assert_eq!(
                (o.mss, o.sack_permitted, o.wscale, o.splice),
                (b.mss, b.sack_permitted, b.wscale, b.splice)
            );
            assert_eq!(o.timestamps.map(|(v, e, _)| (v, e)), b.timestamps);
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(b in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Options::parse(&b);
        }

        /// The short way reads what the long one does, near the shapes that it knows.
        #[test]
        fn the_short_way_is_the_long_one(
            numbers in prop::collection::vec(any::<u8>(), 40),
            blocks in 0usize..4,
            len in 0usize..=40,
            hits in prop::collection::vec((0usize..40, prop_oneof![0u8..12, any::<u8>()]), 0..3),
        ) {
            let mut o = numbers;
            o[..4].copy_from_slice(&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            let sack = [kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks as u8];
            o[12..16].copy_from_slice(&sack);
            for (at, value) in hits {
                o[at] = value;
            }
            for n in [len, 12, 16, 16 + 8 * blocks] {
                prop_assert_eq!(Options::parse(&o[..n]), Options::read(&o[..n]));
            }
        }
    }
}
