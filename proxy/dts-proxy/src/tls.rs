//! The server name in a TLS ClientHello (RFC 8446, 4.1.2 and 5.1; RFC 6066, 3).

use crate::{BadHead, Head};
use tls_parser::{
    SNIType, TlsExtension, parse_tls_extension_sni_content, parse_tls_handshake_client_hello,
};

const RECORD_HEADER: usize = 5;
const CONTENT_HANDSHAKE: u8 = 22;
const MAX_FRAGMENT: usize = 1 << 14;
const HANDSHAKE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;

/// Puts the ClientHello together from the records that it is split over.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Where the next record begins.
    at: usize,
    /// Handshake bytes of the complete records.
    hello: Vec<u8>,
}

impl Scanner {
    pub(crate) fn advance(&mut self, buffer: &[u8]) -> Result<bool, BadHead> {
        while self.at < buffer.len() {
            let rest = &buffer[self.at..];
            if rest[0] != CONTENT_HANDSHAKE {
                return Err(BadHead::Invalid("no TLS handshake record"));
            }
            if rest.get(1).is_some_and(|&major| major != 3) {
                return Err(BadHead::Invalid("TLS record version"));
            }
            let Some(&[high, low]) = rest.get(3..RECORD_HEADER) else {
                return Ok(false);
            };
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len == 0 || len > MAX_FRAGMENT {
                return Err(BadHead::Invalid("TLS record length"));
            }
            let Some(fragment) = rest.get(RECORD_HEADER..RECORD_HEADER + len) else {
                return Ok(false);
            };
            self.hello.extend_from_slice(fragment);
            self.at += RECORD_HEADER + len;
            if self.complete()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn complete(&self) -> Result<bool, BadHead> {
        if self.hello[0] != CLIENT_HELLO {
            return Err(BadHead::Invalid("no ClientHello"));
        }
        let Some(&[_, a, b, c]) = self.hello.get(..HANDSHAKE_HEADER) else {
            return Ok(false);
        };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        match self.hello.len().cmp(&(HANDSHAKE_HEADER + len)) {
            std::cmp::Ordering::Less => Ok(false),
            std::cmp::Ordering::Equal => Ok(true),
            std::cmp::Ordering::Greater => Err(BadHead::Invalid("data behind the ClientHello")),
        }
    }

    pub(crate) fn head(&self) -> Result<Head<'static>, BadHead> {
        const BAD: BadHead = BadHead::Invalid("malformed ClientHello");
        let body = self.hello.get(HANDSHAKE_HEADER..).ok_or(BAD)?;
        let (rest, hello) = parse_tls_handshake_client_hello(body).map_err(|_| BAD)?;
        if !rest.is_empty() {
            return Err(BAD);
        }
        let mut extensions = hello.ext.unwrap_or_default();
        let mut sni = None;
        // Not by the parser's own list of extensions: that one ends in silence
        // at the first which it cannot read, and the name may come after it.
        while !extensions.is_empty() {
            let (kind, body) = extension(&mut extensions).ok_or(BAD)?;
            if kind == EXTENSION_SERVER_NAME {
                if sni.is_some() {
                    return Err(BAD);
                }
                sni = Some(server_name(body).ok_or(BAD)?);
            }
        }
        Ok(Head {
            sni,
            ..Head::default()
        })
    }
}

/// Takes one extension from the front.
fn extension<'a>(bytes: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (kind, rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (body, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    *bytes = rest;
    Some((u16::from_be_bytes(*kind), body))
}

fn server_name(body: &[u8]) -> Option<String> {
    let (_, TlsExtension::SNI(names)) = parse_tls_extension_sni_content(body).ok()? else {
        return None;
    };
    let (_, name) = names.iter().find(|(kind, _)| *kind == SNIType::HostName)?;
    let name = std::str::from_utf8(name).ok().filter(|n| n.is_ascii())?;
    Some(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello message as OpenSSL orders it: an extension that no parser
    /// knows, the name, then another one.
    fn hello(name: Option<&str>) -> Vec<u8> {
        let mut extensions = vec![0xff, 0x01, 0, 1, 0, 0x00, 0x0a, 0, 1, 7];
        if let Some(name) = name {
            let len = name.len() as u16;
            extensions.extend([0, 0]);
            extensions.extend((len + 5).to_be_bytes());
            extensions.extend((len + 3).to_be_bytes());
            extensions.push(0);
            extensions.extend(len.to_be_bytes());
            extensions.extend(name.as_bytes());
        }
        extensions.extend([0, 23, 0, 0]);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let mut bytes = vec![22, 3, 1];
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
            bytes
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn feed(bytes: &[u8], step: usize) -> Option<Result<(usize, Option<String>), BadHead>> {
        let mut scanner = Scanner::default();
        let mut len = 0;
        while len < bytes.len() {
            len = (len + step).min(bytes.len());
            match scanner.advance(&bytes[..len]) {
                Ok(false) => {}
                Ok(true) => return Some(scanner.head().map(|head| (len, head.sni))),
                Err(bad) => return Some(Err(bad)),
            }
        }
        None
    }

    #[test]
    fn any_split_over_records_and_segments() {
        let message = hello(Some("Secure.Example"));
        for size in [1, 2, 3, 50, message.len()] {
            let bytes = records(&message, size);
            for step in [1, 2, 7, bytes.len()] {
                let (len, sni) = feed(&bytes, step).unwrap().unwrap();
                assert_eq!(len, bytes.len());
                assert_eq!(sni.as_deref(), Some("secure.example"));
            }
            assert_eq!(feed(&bytes[..bytes.len() - 1], 1), None);
        }
    }

    #[test]
    fn no_name() {
        let bytes = records(&hello(None), 9);
        assert_eq!(feed(&bytes, 1), Some(Ok((bytes.len(), None))));
    }

    #[test]
    fn early_data_behind_the_hello_does_not_matter() {
        let mut bytes = records(&hello(Some("a")), 1000);
        bytes.extend([23, 3, 3, 0, 1, 9]);
        let (_, sni) = feed(&bytes, bytes.len()).unwrap().unwrap();
        assert_eq!(sni.as_deref(), Some("a"));
    }

    #[test]
    fn refused() {
        let bad = |bytes: &[u8]| {
            assert!(matches!(feed(bytes, 1), Some(Err(BadHead::Invalid(_)))));
        };
        bad(b"GET / HTTP/1.1\r\n\r\n");
        bad(&[22, 2]);
        bad(&[22, 3, 1, 0, 0]);
        bad(&[22, 3, 1, 0x40, 1]);
        bad(&[22, 3, 1, 0, 1, 2]);
        let mut behind = hello(Some("a"));
        behind.push(0);
        bad(&records(&behind, 1000));
        bad(&records(&[1, 0, 0, 1, 0], 1000));
        bad(&records(&hello(Some("é")), 1000));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..40) {
            let _ = feed(&bytes, step);
            let _ = feed(&records(&bytes, step), step);
        }

        #[test]
        fn damaged_hellos_never_panic(at in 0usize..80, value: u8, step in 1usize..40) {
            let mut message = hello(Some("a.example"));
            let at = at % message.len();
            message[at] = value;
            let _ = feed(&records(&message, step), 50);
        }
    }
}
