//! HTTP/1 request heads (RFC 9112).

use crate::{BadHead, Head};
use std::borrow::Cow;

/// Most header fields of a request.
const MAX_HEADERS: usize = 100;

/// Empty lines that may stand before the request line (RFC 9112, 2.2, asks
/// for at least one).
const MAX_LEADING_LINES: usize = 2;

/// Finds the empty line that ends a head.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes looked at.
    at: usize,
    /// Where the current line begins.
    line: usize,
    /// Empty lines before the request line.
    leading: usize,
    /// Whether the request line is complete.
    started: bool,
    /// Length of the head once it is complete.
    end: usize,
}

impl Scanner {
    pub(crate) fn advance(&mut self, buffer: &[u8]) -> Result<bool, BadHead> {
        while let Some(&byte) = buffer.get(self.at) {
            // What is no method at all (a TLS hello on the wrong port) is known
            // at its first byte, long before a line ends.
            if !self.started
                && self.at == self.line
                && !byte.is_ascii_alphanumeric()
                && !b"\r\n!#$%&'*+-.^_`|~".contains(&byte)
            {
                return Err(BadHead::Invalid("no request line"));
            }
            self.at += 1;
            if byte != b'\n' {
                continue;
            }
            let empty = matches!(&buffer[self.line..self.at], b"\n" | b"\r\n");
            self.line = self.at;
            match (empty, self.started) {
                (true, true) => {
                    self.end = self.at;
                    return Ok(true);
                }
                (true, false) => {
                    self.leading += 1;
                    if self.leading > MAX_LEADING_LINES {
                        return Err(BadHead::Invalid("empty lines"));
                    }
                }
                (false, _) => self.started = true,
            }
        }
        Ok(false)
    }

    pub(crate) fn head<'a>(&self, buffer: &'a [u8]) -> Result<Head<'a>, BadHead> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&buffer[..self.end]) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(BadHead::Invalid("incomplete")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(BadHead::Invalid("too many header fields"));
            }
            Err(_) => return Err(BadHead::Invalid("malformed request")),
        }
        let target = request.path.ok_or(BadHead::Invalid("no target"))?;
        let (authority, path) = split_target(target);
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|field| (field.name, field.value))
            .collect();
        let mut hosts = headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("host"));
        let field = hosts.next();
        if hosts.next().is_some() {
            // RFC 9112, 3.2: to be answered with 400; two readers could choose
            // two hosts.
            return Err(BadHead::Invalid("several Host fields"));
        }
        let field = field.and_then(|(_, value)| std::str::from_utf8(value).ok());
        Ok(Head {
            path: Some(path),
            // The target's authority replaces the Host field (RFC 9112, 3.2.2).
            host: authority.or(field).map(host_name),
            headers,
            sni: None,
        })
    }
}

/// Splits a request target into its authority, if it has one, and its path
/// without query.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let scheme = target.find("://").filter(|_| !target.starts_with('/'));
    let (authority, rest) = match scheme {
        Some(at) => {
            let rest = &target[at + 3..];
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        None => (None, target),
    };
    let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    (authority, if path.is_empty() { "/" } else { path })
}

/// A host without port and trailing dot, lower case.
fn host_name(text: &str) -> Cow<'_, str> {
    let end = match text.strip_prefix('[') {
        Some(literal) => literal.find(']').map_or(text.len(), |at| at + 2),
        None => text.find(':').unwrap_or(text.len()),
    };
    let name = &text[..end];
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces of `step` bytes; the length fed and what the head
    /// says, or what is wrong; `None` when it is not complete.
    fn feed(bytes: &[u8], step: usize) -> Option<Result<(usize, String), BadHead>> {
        let mut scanner = Scanner::default();
        let mut len = 0;
        while len < bytes.len() {
            len = (len + step).min(bytes.len());
            match scanner.advance(&bytes[..len]) {
                Ok(false) => {}
                Ok(true) => {
                    let head = scanner.head(&bytes[..len]);
                    return Some(head.map(|head| (len, format!("{head:?}"))));
                }
                Err(bad) => return Some(Err(bad)),
            }
        }
        None
    }

    fn parse(bytes: &[u8]) -> Result<Head<'_>, BadHead> {
        let mut scanner = Scanner::default();
        assert!(scanner.advance(bytes)?);
        scanner.head(bytes)
    }

    const REQUEST: &[u8] =
        b"GET /a/b?q=1 HTTP/1.1\r\nHost: IMG.example.:8080\r\nX-Pool:  c \r\n\r\n";

    #[test]
    fn facts() {
        let head = parse(REQUEST).unwrap();
        assert_eq!(head.path, Some("/a/b"));
        assert_eq!(head.host.as_deref(), Some("img.example"));
        assert_eq!(head.headers[1], ("X-Pool", &b"c"[..]));
    }

    #[test]
    fn any_split_gives_the_same_head_and_bytes_behind_it_do_not_matter() {
        let whole = feed(REQUEST, REQUEST.len()).unwrap().unwrap();
        for step in 1..REQUEST.len() {
            let (len, head) = feed(REQUEST, step).unwrap().unwrap();
            assert_eq!((len, &head), (REQUEST.len(), &whole.1), "step {step}");
        }
        let pipelined = [REQUEST, b"body GET /next HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(
            parse(&pipelined).unwrap().path,
            parse(REQUEST).unwrap().path
        );
        for len in 0..REQUEST.len() {
            assert_eq!(feed(&REQUEST[..len], 7), None);
        }
    }

    #[test]
    fn targets() {
        let get = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: field\r\n\r\n");
            let head = parse(text.as_bytes()).unwrap();
            (
                head.path.unwrap().to_owned(),
                head.host.unwrap().into_owned(),
            )
        };
        let pair = |path: &str, host: &str| (path.to_owned(), host.to_owned());
        assert_eq!(get("/x?u=http://y/z"), pair("/x", "field"));
        assert_eq!(get("http://Other:81/x?y"), pair("/x", "other"));
        assert_eq!(get("http://other"), pair("/", "other"));
        assert_eq!(get("http://[::1]:80/x"), pair("/x", "[::1]"));
        assert_eq!(get("*"), pair("*", "field"));
    }

    #[test]
    fn refused() {
        let bad = |bytes: &[u8]| feed(bytes, 1).unwrap().unwrap_err();
        // At the first byte, without waiting for a line.
        assert_eq!(bad(&[0x16]), BadHead::Invalid("no request line"));
        assert_eq!(bad(b"\r\n\r\n\r\n"), BadHead::Invalid("empty lines"));
        for text in [
            &b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"[..],
            b"GET /\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: \0\r\n\r\n",
        ] {
            assert!(matches!(bad(text), BadHead::Invalid(_)));
        }
        let many = "A: b\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert!(matches!(bad(many.as_bytes()), BadHead::Invalid(_)));
        let head = parse(b"\r\nGET / HTTP/1.0\n\n").unwrap();
        assert_eq!((head.path, head.host), (Some("/"), None));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..40) {
            let _ = feed(&bytes, step);
        }

        #[test]
        fn near_requests_never_panic(text in "(GET|X) [ -~]{0,30} HTTP/1.[019]\r?\n([ -~]{0,9}:[ -~é]{0,9}\r?\n){0,4}\r?\n", step in 1usize..40) {
            let _ = feed(text.as_bytes(), step);
        }
    }
}
