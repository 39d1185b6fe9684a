//! The server name of a TLS ClientHello.

use crate::input::Input;
use crate::inspect::any_split;
use dts_proxy::config::Protocol;

/// Runs one input: its first byte says which part.
pub fn run(data: &[u8]) {
    let mut u = Input::new(data);
    let b = u.next::<u8>();
    let sizes = u.next::<[u8; 4]>();
    match b & 3 {
        // A connection as it is.
        0 => {
            any_split(Protocol::Tls, u.rest(), &sizes);
        }
        // A message, in records of two sizes.
        1 => records(u.rest(), &sizes),
        // A hello with these extensions.
        2 => records(&hello(u.rest()), &sizes),
        _ => named(&mut u, &sizes),
    }
}

/// However a message is cut into records, it says the same.
fn records(message: &[u8], sizes: &[u8; 4]) {
    let at_once = any_split(Protocol::Tls, &record(message, 16_000), sizes);
    let size = usize::from(sizes[0]).max(1);
    let cut = any_split(Protocol::Tls, &record(message, size), sizes);
    // Data behind the message is seen only when it shares a record with it.
    let fits = message
        .get(1..4)
        .is_some_and(|n| message.len() == 4 + u32::from_be_bytes([0, n[0], n[1], n[2]]) as usize);
    if fits {
        assert_eq!(cut, at_once);
    }
}

fn record(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let mut bytes = vec![22, 3, 1];
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
        bytes
    };
    message.chunks(size).flat_map(record).collect()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
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

/// A name that was written is read, whatever extensions surround it.
fn named(u: &mut Input<'_>, sizes: &[u8; 4]) {
    let n = u.below(40);
    let name: String = u.bytes(n).iter().map(|b| char::from(b % 95 + 32)).collect();
    let mut e = vec![];
    let mut others = |e: &mut Vec<u8>| {
        for _ in 0..u.below(4) {
            // Any kind but the name's own.
            e.extend((u.next::<u16>().max(1)).to_be_bytes());
            let n = u.below(20);
            let body = u.bytes(n);
            e.extend((body.len() as u16).to_be_bytes());
            e.extend(body);
        }
    };
    others(&mut e);
    let len = name.len() as u16;
    e.extend([0, 0]);
    e.extend((len + 5).to_be_bytes());
    e.extend((len + 3).to_be_bytes());
    e.push(0);
    e.extend(len.to_be_bytes());
    e.extend(name.as_bytes());
    others(&mut e);
    let read = any_split(Protocol::Tls, &record(&hello(&e), 16_000), sizes);
    let read = read.expect("a whole hello").expect("a fair hello");
    let want = format!("sni: Some({:?})", name.to_ascii_lowercase());
    assert!(read.contains(&want), "{read} without {want}");
}
