//! As much of HTTP as the pair of client and server needs.

use std::io::{self, Read};

/// The largest head, bytes.
const HEAD_MOST: usize = 16_384;

/// A request's or an answer's head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Status of an answer, 0 of a request.
    pub status: u16,
    /// Bytes of the body.
    pub content_length: usize,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; the bytes that came behind it are returned too.
    ///
    /// # Errors
    /// The stream's, `UnexpectedEof` for one that ends, or what is wrong with the head.
    pub fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<(Self, Vec<u8>)> {
        let mut bytes = Vec::new();
        loop {
            let n = stream.read(buffer)?;
            if n == 0 {
                let text = format!("end of file in the head, after {} bytes", bytes.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            bytes.extend_from_slice(&buffer[..n]);
            if let Some((head, end)) = Self::parse(&bytes)? {
                bytes.drain(..end);
                return Ok((head, bytes));
            }
            if bytes.len() > HEAD_MOST {
                return Err(io::Error::other("a head without end"));
            }
        }
    }

    fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut space = [httparse::EMPTY_HEADER; 32];
        let mut head = Self::default();
        let status = if bytes.starts_with(b"HTTP/") {
            let mut answer = httparse::Response::new(&mut space);
            let status = answer.parse(bytes).map_err(io::Error::other)?;
            head.status = answer.code.unwrap_or(0);
            status
        } else {
            let mut request = httparse::Request::new(&mut space);
            request.parse(bytes).map_err(io::Error::other)?
        };
        let httparse::Status::Complete(end) = status else {
            return Ok(None);
        };
        for field in space.iter().take_while(|f| !f.name.is_empty()) {
            let value = String::from_utf8_lossy(field.value).into_owned();
            head.fields.push((field.name.to_ascii_lowercase(), value));
        }
        head.content_length = head.number("content-length").unwrap_or(0);
        Ok(Some((head, end)))
    }

    /// A field's value; the name in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }

    /// A field's value as a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.field(name).parse().ok()
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_in_pieces() {
        let text: &[u8] =
            b"POST /b/x HTTP/1.1\r\nHost: lab\r\nX-Down: 77\r\nContent-Length: 3\r\n\r\nabc";
        let (head, rest) = Head::read(&mut &text[..], &mut [0; 7]).expect("a head");
        assert_eq!((head.status, head.content_length), (0, 3));
        assert_eq!(
            (head.number("x-down"), head.field("host")),
            (Some(77), "lab")
        );
        assert!(b"abc".starts_with(&rest));
        let text: &[u8] = b"HTTP/1.1 200 OK\r\nX-Node: node2\r\n\r\n";
        let (head, rest) = Head::read(&mut &text[..], &mut [0; 64]).expect("a head");
        assert_eq!((head.status, head.field("x-node")), (200, "node2"));
        assert!(rest.is_empty());
        assert!(Head::read(&mut &text[..9], &mut [0; 64]).is_err());
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
