//! Values that fit on one line: addresses, keys, names of choices.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Id of a node, 1..=65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address, written `02:00:5e:00:00:64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether the group bit is set (broadcast included).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// Whether the address was chosen by an administrator, not a manufacturer.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 0x02 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A value that was not of its form; the text says which form was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct FormError(pub(crate) &'static str);

impl FromStr for MacAddr {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        const FORM: FormError = FormError("an Ethernet address like 02:00:5e:00:00:64");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(FORM)?;
            // from_str_radix alone would take "+f".
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(FORM);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| FORM)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(FORM),
        }
    }
}

/// An address together with the length of its network's prefix, `10.77.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    /// The address itself, host part included.
    pub address: IpAddr,
    /// Prefix length in bits, 0..=32 for IPv4 and 0..=128 for IPv6.
    pub length: u8,
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        const FORM: FormError = FormError("an address with prefix length like 10.77.0.1/24");
        let (address, length) = text.split_once('/').ok_or(FORM)?;
        let address: IpAddr = address.parse().map_err(|_| FORM)?;
        if !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(FORM);
        }
        let length: u8 = length.parse().map_err(|_| FORM)?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(FORM);
        }
        Ok(Self { address, length })
    }
}

/// The cluster's shared secret, 16..=64 bytes. Its `Debug` shows no byte of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub(crate) Vec<u8>);

impl ClusterKey {
    /// Fewest bytes of a key.
    pub const MIN: usize = 16;
    /// Most bytes of a key.
    pub const MAX: usize = 64;

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl FromStr for ClusterKey {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        const FORM: FormError = FormError("16 to 64 bytes in hex (32 to 128 hex digits)");
        let text = text.as_bytes();
        let bytes = text.len() / 2;
        if !text.len().is_multiple_of(2) || !(Self::MIN..=Self::MAX).contains(&bytes) {
            return Err(FORM);
        }
        let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(FORM);
        text.chunks_exact(2)
            .map(|pair| {
                let byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
                u8::try_from(byte).map_err(|_| FORM)
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Whether the port lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many ports there are; at least one in a validated configuration.
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.last as u32 + 1).saturating_sub(self.first as u32)
    }
}

/// Declares an enum whose variants have names in the configuration.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident: $form:literal {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// The name in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = FormError;

            fn from_str(text: &str) -> Result<Self, FormError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(FormError($form)),
                }
            }
        }
    };
}

choices! {
    /// Who owns a new connection.
    Policy: "designated, flow-hash, source-hash, source-net-hash or scheduled" {
        /// One named node.
        Designated = "designated",
        /// By the connection's addresses and ports.
        FlowHash = "flow-hash",
        /// By the client's address alone.
        SourceHash = "source-hash",
        /// By the client's network: 24 bits of an IPv4 address, 64 of an IPv6 address.
        SourceNetHash = "source-net-hash",
        /// As [`Policy::FlowHash`], and the shares follow the members' loads.
        Scheduled = "scheduled",
    }
}

choices! {
    /// What a SYN gets of a service that no member takes connections for.
    Unavailable: "rst or drop" {
        /// A RST: the client knows at once.
        Rst = "rst",
        /// Nothing: the client tries again, until its patience ends.
        Drop = "drop",
    }
}

choices! {
    /// How the wire's switches come to give every node all frames of the cluster.
    Layer2: "unicast, multicast or igmp" {
        /// They know no port for the address, and flood it.
        Unicast = "unicast",
        /// It is a multicast address, which they flood. Routers may have to be told of it by
        /// hand (RFC 1812, section 3.3.2).
        Multicast = "multicast",
        /// It is that of an IPv4 group, which every node joins.
        Igmp = "igmp",
    }
}

choices! {
    /// What is done to find out whether an application works.
    CheckKind: "tcp, http or command" {
        /// A connection.
        Tcp = "tcp",
        /// A request.
        Http = "http",
        /// A program.
        Command = "command",
    }
}

choices! {
    /// What a worker does when its queues are empty.
    Idle: "spin or backoff" {
        /// Polls on.
        Spin = "spin",
        /// Sleeps for longer and longer, up to [`crate::Workers::idle_sleep`].
        Backoff = "backoff",
    }
}

choices! {
    /// How the destination's stack is brought to the client's state.
    Replay: "fast-open or handshake" {
        /// The request travels in the SYN (TCP Fast Open).
        FastOpen = "fast-open",
        /// A full handshake, then the request.
        Handshake = "handshake",
    }
}

choices! {
    /// What a NIC is asked to do with checksums, segments and VLAN tags.
    Offloads: "auto or none" {
        /// All of it that it can do and that is needed; software does the rest.
        Auto = "auto",
        /// Nothing: software does everything.
        None = "none",
    }
}

choices! {
    /// What the node's own stack may leave to be done when it sends.
    HostOffloads: "tso, checksum or none" {
        /// Checksums, and the cutting of frames of up to 64 KiB into segments.
        Tso = "tso",
        /// Checksums.
        Checksum = "checksum",
        /// Nothing.
        None = "none",
    }
}

choices! {
    /// Least severity that is logged.
    LogLevel: "error, warn, info, debug or trace" {
        /// What stops the daemon or a part of it.
        Error = "error",
        /// What needs attention.
        Warn = "warn",
        /// What happens once.
        Info = "info",
        /// What happens often.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choices! {
    /// Form of a log line.
    LogFormat: "text or json" {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
