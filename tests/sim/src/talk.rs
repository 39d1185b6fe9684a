//! What clients and applications say: requests that name themselves, and answers that
//! anyone can compute, so that both ends check every byte.
//!
//! A request is `magic, length, id, answer length, connection` (24 bytes, big-endian),
//! then bytes that its id determines. An answer is bytes that the id determines too.

/// Bytes of a request's head.
pub const HEAD: usize = 24;
const MAGIC: u32 = 0x4454_5351;

/// A request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names the request in the whole run.
    pub id: u64,
    /// All bytes, the head included.
    pub len: usize,
    /// Bytes of its answer.
    pub answer: usize,
}

fn noise(id: u64, at: u64) -> u8 {
    let x =
        (id ^ (at >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x ^ (x >> 29)) >> (8 * (at & 7))) as u8
}

impl Request {
    /// The request as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(self.len);
        b.extend_from_slice(&MAGIC.to_be_bytes());
        b.extend_from_slice(&(self.len as u32).to_be_bytes());
        b.extend_from_slice(&self.id.to_be_bytes());
        b.extend_from_slice(&(self.answer as u32).to_be_bytes());
        b.extend_from_slice(&[0; 4]);
        b.extend((HEAD..self.len).map(|i| noise(self.id, i as u64)));
        b
    }

    /// Reads a head; `Ok(None)` when there are too few bytes.
    ///
    /// # Errors
    /// What is wrong, when the bytes are no request.
    pub fn parse(b: &[u8]) -> Result<Option<Self>, String> {
        if b.len() < HEAD {
            return Ok(None);
        }
        let word = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        if word(0) != MAGIC || (word(4) as usize) < HEAD {
            return Err(format!("no request: {:02x?}", &b[..HEAD]));
        }
        Ok(Some(Self {
            id: u64::from(word(8)) << 32 | u64::from(word(12)),
            len: word(4) as usize,
            answer: word(16) as usize,
        }))
    }

    /// Byte `at` of the answer.
    pub fn answer_byte(&self, at: usize) -> u8 {
        noise(!self.id, at as u64)
    }

    /// The whole answer.
    pub fn answer(&self) -> Vec<u8> {
        (0..self.answer).map(|i| self.answer_byte(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_it_was_written() {
        let r = Request {
            id: 0x0102_0304_0506_0708,
            len: 100,
            answer: 7,
        };
        let b = r.bytes();
        assert_eq!(b.len(), 100);
        assert_eq!(Request::parse(&b), Ok(Some(r)));
        assert_eq!(Request::parse(&b[..HEAD - 1]), Ok(None));
        assert!(Request::parse(&[0; HEAD]).is_err());
    }
}
