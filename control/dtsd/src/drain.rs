//! Step 3 of a handover: every byte that the client has sent, read without
//! taking it, and the proof that none is missing.

use hostsock::{State, TcpInfo, peek_all, tcp_info};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Looks at a socket whose last segments are still on their way to it.
const ROUNDS: u32 = 10;
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(50);

/// The request as the destination will get it.
#[derive(Debug, PartialEq, Eq)]
pub struct Drained {
    /// Every byte from the first one that the client sent.
    pub request: Vec<u8>,
    /// The client's FIN is behind them.
    pub eof: bool,
}

/// Why a connection cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum Ineligible {
    /// The kernel does not tell, or reports the connection's own error.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// Not established, and not half-closed by the client either.
    #[error("the connection is in state {0:?}")]
    State(State),
    /// The proxy has answered already. Such a connection has server bytes that
    /// the destination would have to continue behind, which is not supported.
    #[error("the proxy has sent {0} bytes to the client")]
    Answered(u64),
    /// The proxy has written bytes that the client has not acknowledged.
    #[error("{0} bytes in the send queue")]
    Unsent(u64),
    /// The request is longer than a client may be let send before cut over.
    #[error("the request has more than {0} bytes")]
    TooLarge(usize),
    /// Received and found differ: urgent data, or a proxy that did not pass on
    /// all that it read.
    #[error("{received} bytes were received, {found} were passed or are unread")]
    Unaccounted {
        /// By the kernel's count.
        received: u64,
        /// Passed by the proxy and still in the socket.
        found: u64,
    },
}

/// Reads what is left in `socket` behind `passed`, the bytes that the proxy has
/// read, and checks that the two are all. `limit` is the most bytes of a request.
///
/// # Errors
/// See [`Ineligible`]. The socket is as it was.
pub fn drain(socket: impl AsFd, passed: &[u8], limit: usize) -> Result<Drained, Ineligible> {
    let fd = socket.as_fd();
    let mut round = 0;
    loop {
        let before = tcp_info(fd)?;
        check(&before)?;
        let queued = hostsock::outq(fd)? as u64;
        if queued > 0 {
            return Err(Ineligible::Unsent(queued));
        }
        let room = limit
            .checked_sub(passed.len())
            .ok_or(Ineligible::TooLarge(limit))?;
        // One byte more than there is room for shows that there are more.
        let unread = peek_all(fd, room + 1)?;
        if unread.bytes.len() > room {
            return Err(Ineligible::TooLarge(limit));
        }
        let after = tcp_info(fd)?;
        let found = (passed.len() + unread.bytes.len()) as u64;
        let received = payload(&before);
        if received == found && unread.eof == (before.state == State::CloseWait) {
            let mut request = Vec::with_capacity(passed.len() + unread.bytes.len());
            request.extend_from_slice(passed);
            request.extend_from_slice(&unread.bytes);
            return Ok(Drained {
                request,
                eof: unread.eof,
            });
        }
        let moved = payload(&after) != received || after.state != before.state;
        round += 1;
        if round == ROUNDS || !moved {
            return Err(Ineligible::Unaccounted { received, found });
        }
        std::thread::sleep(PAUSE);
    }
}

fn check(info: &TcpInfo) -> Result<(), Ineligible> {
    if !matches!(info.state, State::Established | State::CloseWait) {
        return Err(Ineligible::State(info.state));
    }
    if info.bytes_acked > 0 {
        return Err(Ineligible::Answered(info.bytes_acked));
    }
    if info.notsent_bytes > 0 || info.unacked > 0 {
        return Err(Ineligible::Unsent(u64::from(info.notsent_bytes.max(1))));
    }
    Ok(())
}

/// Data bytes that the client sent: the kernel counts its FIN as one.
fn payload(info: &TcpInfo) -> u64 {
    info.bytes_received - u64::from(info.state == State::CloseWait && info.bytes_received > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{settled, tcp_pair, tcp_pair_of, until};
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    #[test]
    fn passed_and_unread_make_the_request() {
        for (listen, connect) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("::", "127.0.0.1"),
        ] {
            let (client, proxy) = tcp_pair_of(listen, connect);
            passed_and_unread(client, proxy);
        }
    }

    fn passed_and_unread(mut client: TcpStream, mut proxy: TcpStream) {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        settled(&proxy, 18);
        let mut head = [0; 5];
        proxy.read_exact(&mut head).unwrap();
        let drained = drain(&proxy, &head, 100).unwrap();
        assert_eq!(
            drained,
            Drained {
                request: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                eof: false
            }
        );
        // Nothing was taken.
        assert_eq!(drain(&proxy, &head, 100).unwrap(), drained);
    }

    #[test]
    fn a_half_close_is_seen_and_not_counted() {
        let (mut client, proxy) = tcp_pair();
        client.write_all(b"abc").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        until(|| peek_all(&proxy, 100).is_ok_and(|p| p.eof));
        let drained = drain(&proxy, b"", 100).unwrap();
        assert_eq!(
            drained,
            Drained {
                request: b"abc".to_vec(),
                eof: true
            }
        );
    }

    #[test]
    fn missing_and_invented_bytes_are_noticed() {
        let (mut client, mut proxy) = tcp_pair();
        client.write_all(b"abcdef").unwrap();
        settled(&proxy, 6);
        proxy.read_exact(&mut [0; 3]).unwrap();
        for passed in [&b"ab"[..], b"abcd"] {
            let error = drain(&proxy, passed, 100).unwrap_err();
            assert!(
                matches!(error, Ineligible::Unaccounted { received: 6, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn urgent_data_is_not_eligible() {
        let (mut client, proxy) = tcp_pair();
        client.write_all(b"abc").unwrap();
        nix::sys::socket::send(
            std::os::fd::AsRawFd::as_raw_fd(&client),
            b"!",
            nix::sys::socket::MsgFlags::MSG_OOB,
        )
        .unwrap();
        until(|| tcp_info(&proxy).is_ok_and(|i| i.bytes_received == 4));
        let error = drain(&proxy, b"", 100).unwrap_err();
        assert!(matches!(error, Ineligible::Unaccounted { .. }), "{error}");
    }

    #[test]
    fn urgent_data_that_the_socket_takes_in_line_is_accounted_for() {
        let (mut client, mut proxy) = tcp_pair();
        nix::sys::socket::setsockopt(&proxy, nix::sys::socket::sockopt::OobInline, &true).unwrap();
        client.write_all(b"abc").unwrap();
        nix::sys::socket::send(
            std::os::fd::AsRawFd::as_raw_fd(&client),
            b"!",
            nix::sys::socket::MsgFlags::MSG_OOB,
        )
        .unwrap();
        client.write_all(b"def").unwrap();
        until(|| tcp_info(&proxy).is_ok_and(|i| i.bytes_received == 7));
        // A look ends at the mark, so that the unread bytes cannot be shown to be all.
        let error = drain(&proxy, b"", 100).unwrap_err();
        assert!(
            matches!(
                error,
                Ineligible::Unaccounted {
                    received: 7,
                    found: 3
                }
            ),
            "{error}"
        );
        // Once the proxy has read over it, they are bytes like others.
        let mut passed = [0; 7];
        proxy.read_exact(&mut passed).unwrap();
        let drained = drain(&proxy, &passed, 100).unwrap();
        assert_eq!(drained.request, b"abc!def");
    }

    #[test]
    fn a_proxy_that_has_spoken_is_not_eligible() {
        let (mut client, mut proxy) = tcp_pair();
        client.write_all(b"abc").unwrap();
        proxy.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        let error = drain(&proxy, b"", 100).unwrap_err();
        assert!(
            matches!(error, Ineligible::Answered(_) | Ineligible::Unsent(_)),
            "{error}"
        );
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let (mut client, proxy) = tcp_pair();
        client.write_all(&[7; 64]).unwrap();
        settled(&proxy, 64);
        assert_eq!(drain(&proxy, b"", 64).unwrap().request.len(), 64);
        assert!(matches!(
            drain(&proxy, b"", 63),
            Err(Ineligible::TooLarge(63))
        ));
        assert!(matches!(
            drain(&proxy, &[7; 65], 64),
            Err(Ineligible::TooLarge(64))
        ));
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(drain(&a, b"", 10), Err(Ineligible::Socket(_))));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(
            drain(&listener, b"", 10),
            Err(Ineligible::State(State::Listen))
        ));
    }
}
