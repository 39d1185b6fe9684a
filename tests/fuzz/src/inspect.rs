//! What both inspectors promise: a head is the same however it is cut into
//! segments, and bytes behind it do not matter.

use dts_proxy::config::Protocol;
use dts_proxy::{BadHead, Scanner};

/// What a scanner says of `bytes` that come in pieces of these sizes, repeated:
/// how many bytes it had when it was done, and the head as text; `None` when it
/// waits for more.
pub(crate) fn feed(
    protocol: Protocol,
    bytes: &[u8],
    sizes: &[u8],
) -> Option<Result<String, BadHead>> {
    let mut scanner = Scanner::new(protocol);
    let mut sizes = sizes.iter().cycle();
    let mut len = 0;
    while len < bytes.len() {
        let step = sizes.next().map_or(bytes.len(), |&n| usize::from(n).max(1));
        len = (len + step).min(bytes.len());
        match scanner.advance(&bytes[..len]) {
            Ok(false) => {}
            Ok(true) => {
                let head = scanner.head(&bytes[..len]);
                return Some(head.map(|head| format!("{head:?}")));
            }
            Err(bad) => return Some(Err(bad)),
        }
    }
    None
}

/// The head of `bytes` in pieces is the head of `bytes` at once; gives it.
pub(crate) fn any_split(
    protocol: Protocol,
    bytes: &[u8],
    sizes: &[u8],
) -> Option<Result<String, BadHead>> {
    let whole = feed(protocol, bytes, &[]);
    assert_eq!(feed(protocol, bytes, sizes), whole, "pieces of {sizes:?}");
    whole
}
