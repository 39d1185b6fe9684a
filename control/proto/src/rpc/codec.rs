//! Bytes of a message, apart from any socket.

use super::{Answer, FailCode, MAX_MESSAGE, MAX_REASON, MAX_REQUEST, Request, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;

/// Why a message could not be made or understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No byte at all.
    #[error("empty message")]
    Empty,
    /// The first byte is another protocol version.
    #[error("protocol version {0}, expected {VERSION}")]
    Version(u8),
    /// The message (or the request in it) is larger than allowed, in bytes.
    #[error("{len} bytes, at most {max} are allowed")]
    Oversize {
        /// Bytes there were.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A well-formed value is followed by this many further bytes.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// The bytes are no value of the expected type.
    #[error("malformed message: {0}")]
    Malformed(postcard::Error),
}

/// [`Request`] over borrowed bytes: the same wire form without a copy.
#[derive(Serialize)]
enum RequestRef<'a> {
    Handover {
        dest: SocketAddr,
        sent_ns: u64,
        #[serde(with = "serde_bytes")]
        request: &'a [u8],
    },
    Nodes,
}

/// [`Answer::Failed`] with its reason borrowed; variant order as in [`Answer`].
#[derive(Serialize)]
enum AnswerRef<'a> {
    Done(super::Done),
    Failed { code: FailCode, reason: &'a str },
    Nodes(&'a [super::Node]),
}

/// Encodes a [`Request::Handover`].
///
/// # Errors
/// [`CodecError::Oversize`] when `request` exceeds [`MAX_REQUEST`].
pub fn encode_request(
    dest: SocketAddr,
    sent_ns: u64,
    request: &[u8],
) -> Result<Vec<u8>, CodecError> {
    if request.len() > MAX_REQUEST {
        return Err(CodecError::Oversize {
            len: request.len(),
            max: MAX_REQUEST,
        });
    }
    let value = RequestRef::Handover {
        dest,
        sent_ns,
        request,
    };
    encode(&value, request.len() + 48)
}

/// Encodes a [`Request::Nodes`].
///
/// # Errors
/// None is reachable; the signature passes on what the serializer reports.
pub fn encode_nodes_request() -> Result<Vec<u8>, CodecError> {
    encode(&RequestRef::Nodes, 2)
}

/// Encodes an answer. A reason longer than [`MAX_REASON`] is cut at a character
/// boundary, so that what a daemon has to say always fits.
///
/// # Errors
/// [`CodecError::Oversize`] for more nodes than fit, some thousands; none for other
/// values.
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>, CodecError> {
    let value = match answer {
        Answer::Done(done) => AnswerRef::Done(*done),
        Answer::Failed { code, reason } => AnswerRef::Failed {
            code: *code,
            reason: cut(reason),
        },
        Answer::Nodes(nodes) => AnswerRef::Nodes(nodes),
    };
    encode(&value, 64)
}

/// Decodes a request, strictly: version, exact length, limits.
///
/// # Errors
/// Any [`CodecError`]; never panics, whatever the bytes.
pub fn decode_request(bytes: &[u8]) -> Result<Request, CodecError> {
    let request: Request = decode(bytes)?;
    match &request {
        Request::Handover { request: body, .. } if body.len() > MAX_REQUEST => {
            Err(CodecError::Oversize {
                len: body.len(),
                max: MAX_REQUEST,
            })
        }
        Request::Handover { .. } | Request::Nodes => Ok(request),
    }
}

/// Decodes an answer, strictly as [`decode_request`].
///
/// # Errors
/// Any [`CodecError`]; never panics, whatever the bytes.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, CodecError> {
    decode(bytes)
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn encode<T: Serialize>(value: &T, size_hint: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(size_hint);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(value, bytes).map_err(CodecError::Malformed)?;
    check_len(bytes.len())?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    check_len(bytes.len())?;
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(CodecError::Malformed)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(CodecError::Trailing(rest.len()))
    }
}

fn check_len(len: usize) -> Result<(), CodecError> {
    if len > MAX_MESSAGE {
        return Err(CodecError::Oversize {
            len,
            max: MAX_MESSAGE,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Done, Node, NodeState, Replay, ServiceState};
    use super::*;
    use proptest::prelude::*;

    fn addr() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
            (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from),
        ]
    }

    fn node() -> impl Strategy<Value = Node> {
        let states = [
            NodeState::Active,
            NodeState::Draining,
            NodeState::Standby,
            NodeState::Dead,
        ];
        let service =
            any::<(u16, bool, u32, u32)>().prop_map(|(port, healthy, connections, age_ms)| {
                ServiceState {
                    port,
                    healthy,
                    connections,
                    age_ms,
                }
            });
        (
            any::<u16>(),
            addr(),
            0..4usize,
            prop::collection::vec(service, 0..4),
        )
            .prop_map(move |(id, link, state, services)| Node {
                id,
                link: link.ip(),
                state: states[state],
                services,
            })
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            prop::collection::vec(node(), 0..20).prop_map(Answer::Nodes),
            (any::<u16>(), 0..4usize, any::<u64>()).prop_map(|(node, replay, micros)| {
                let all = [
                    Replay::FastOpen,
                    Replay::Handshake,
                    Replay::Paper,
                    Replay::Unknown,
                ];
                let replay = all[replay];
                Answer::Done(Done {
                    node,
                    replay,
                    micros,
                })
            }),
            (0..FailCode::ALL.len(), ".{0,40}").prop_map(|(code, reason)| Answer::Failed {
                code: FailCode::ALL[code],
                reason,
            }),
        ]
    }

    proptest! {
        #[test]
        fn request_round_trip(dest in addr(), sent_ns: u64, request in prop::collection::vec(any::<u8>(), 0..3000)) {
            let bytes = encode_request(dest, sent_ns, &request).unwrap();
            prop_assert_eq!(
                decode_request(&bytes).unwrap(),
                Request::Handover { dest, sent_ns, request }
            );
        }

        #[test]
        fn answer_round_trip(answer in answer()) {
            prop_assert_eq!(decode_answer(&encode_answer(&answer).unwrap()).unwrap(), answer);
        }

        #[test]
        fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&bytes);
            let _ = decode_answer(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode_request(&bytes);
            let _ = decode_answer(&bytes);
        }

        #[test]
        fn every_prefix_is_refused(dest in addr(), request in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = encode_request(dest, 0, &request).unwrap();
            for len in 0..bytes.len() {
                prop_assert!(decode_request(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let dest = "10.77.1.2:80".parse().unwrap();
        assert_eq!(
            encode_request(dest, 300, b"GET").unwrap(),
            [2, 0, 0, 10, 77, 1, 2, 80, 0xac, 0x02, 3, b'G', b'E', b'T']
        );
        let done = Answer::Done(Done {
            node: 2,
            replay: Replay::Handshake,
            micros: 300,
        });
        assert_eq!(encode_answer(&done).unwrap(), [2, 0, 2, 1, 0xac, 0x02]);
        let failed = Answer::Failed {
            code: FailCode::Unknown,
            reason: "x".into(),
        };
        assert_eq!(encode_answer(&failed).unwrap(), [2, 1, 3, 1, b'x']);
        assert_eq!(encode_nodes_request().unwrap(), [2, 1]);
        assert_eq!(decode_request(&[2, 1]), Ok(Request::Nodes));
        let nodes = Answer::Nodes(vec![Node {
            id: 3,
            link: [10, 77, 1, 3].into(),
            state: NodeState::Draining,
            services: vec![ServiceState {
                port: 80,
                healthy: true,
                connections: 300,
                age_ms: 7,
            }],
        }]);
        assert_eq!(
            encode_answer(&nodes).unwrap(),
            [2, 2, 1, 3, 0, 10, 77, 1, 3, 1, 1, 80, 1, 0xac, 0x02, 7]
        );
    }

    #[test]
    fn who_takes_connections() {
        let node = |state, healthy| Node {
            id: 1,
            link: [10, 77, 1, 1].into(),
            state,
            services: vec![ServiceState {
                port: 80,
                healthy,
                connections: 0,
                age_ms: 0,
            }],
        };
        assert!(node(NodeState::Active, true).takes(80));
        assert!(!node(NodeState::Active, false).takes(80));
        assert!(
            node(NodeState::Active, false).takes(81),
            "nothing is said of it"
        );
        for state in [NodeState::Draining, NodeState::Standby, NodeState::Dead] {
            assert!(!node(state, true).takes(80));
        }
    }

    #[test]
    fn strictness() {
        let dest = "[::1]:80".parse().unwrap();
        let mut bytes = encode_request(dest, 1, b"GET").unwrap();
        bytes.push(0);
        assert_eq!(decode_request(&bytes), Err(CodecError::Trailing(1)));
        bytes.pop();
        bytes[0] = 1;
        assert_eq!(decode_request(&bytes), Err(CodecError::Version(1)));
        assert_eq!(decode_request(&[]), Err(CodecError::Empty));
        let huge = vec![VERSION; MAX_MESSAGE + 1];
        assert!(matches!(
            decode_request(&huge),
            Err(CodecError::Oversize { .. })
        ));
        assert!(encode_request(dest, u64::MAX, &vec![0; MAX_REQUEST]).is_ok());
        assert!(matches!(
            encode_request(dest, 0, &vec![0; MAX_REQUEST + 1]),
            Err(CodecError::Oversize { .. })
        ));
    }

    #[test]
    fn long_reason_is_cut_between_characters() {
        let failed = Answer::Failed {
            code: FailCode::Refused,
            reason: "é".repeat(MAX_REASON),
        };
        let Ok(Answer::Failed { reason, .. }) = decode_answer(&encode_answer(&failed).unwrap())
        else {
            panic!("a refusal was expected");
        };
        assert_eq!(reason.len(), MAX_REASON);
    }
}
