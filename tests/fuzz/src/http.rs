//! HTTP request heads.

use crate::input::Input;
use crate::inspect::any_split;
use dts_proxy::Scanner;
use dts_proxy::config::Protocol;

/// Runs one input: four sizes of pieces, then the bytes of a connection.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    let sizes = u.next::<[u8; 4]>();
    let bytes = u.rest();
    let Some(Ok(_)) = any_split(Protocol::Http, bytes, &sizes) else {
        return;
    };
    let mut scanner = Scanner::new(Protocol::Http);
    assert_eq!(scanner.advance(bytes), Ok(true));
    let head = scanner.head(bytes).expect("it was one");
    let path = head.path.expect("a path");
    assert!(!path.is_empty() && !path.contains(['?', '#']), "{path:?}");
    if let Some(host) = &head.host {
        assert!(!host.bytes().any(|b| b.is_ascii_uppercase()), "{host:?}");
        let colon = host.find(':').is_some_and(|_| !host.starts_with('['));
        assert!(!colon, "a port in {host:?}");
    }
    let hosts = head.headers.iter();
    let hosts = hosts.filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    assert!(hosts.count() <= 1, "two readers could choose two hosts");
    // A second reader of the same bytes, line by line.
    let text = String::from_utf8_lossy(bytes);
    let first = text.lines().find(|line| !line.is_empty());
    let target = first.and_then(|line| line.split(' ').nth(1));
    let target = target.expect("a request line");
    assert!(
        path == "/" || target.contains(path),
        "{path:?} of {target:?}"
    );
}
