//! What names a connection, and the keyed hashes over it.

use siphasher::sip::SipHasher13;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IP address of either family; IPv4 as its IPv4-mapped IPv6 form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// From four octets.
    #[inline]
    pub fn v4(a: [u8; 4]) -> Self {
        let mut b = [0; 16];
        b[10] = 0xff;
        b[11] = 0xff;
        b[12..].copy_from_slice(&a);
        Self(b)
    }
    /// The four octets of an IPv4 address.
    #[inline]
    pub fn octets_v4(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }
    /// Whether this is an IPv4 address.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }
    /// The unspecified IPv6 address, `::`.
    #[inline]
    pub fn is_unspecified(&self) -> bool {
        self.0 == [0; 16]
    }
    /// An IPv6 link-local address, `fe80::/10`.
    #[inline]
    pub fn is_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
    /// An IPv6 multicast address, `ff00::/8`.
    #[inline]
    pub fn is_multicast(&self) -> bool {
        self.0[0] == 0xff
    }
    /// The network of a client: the first 24 bits of an IPv4 address (class C), the
    /// first 64 of an IPv6 address (RFC 4291, section 2.5.4).
    #[inline]
    pub fn net(&self) -> Self {
        let mut a = *self;
        let host = if self.is_v4() { 15 } else { 8 };
        a.0[host..].fill(0);
        a
    }
    /// The standard library's form.
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(v) => Self::v4(v.octets()),
            IpAddr::V6(v) => Self(v.octets()),
        }
    }
}

impl std::fmt::Debug for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ip().fmt(f)
    }
}

/// A connection as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The client's address.
    pub client: Addr,
    /// The service's address.
    pub vip: Addr,
    /// The client's port.
    pub client_port: u16,
    /// The service port.
    pub port: u16,
}

impl FlowKey {
    /// The client's socket address.
    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client.ip(), self.client_port)
    }
    /// The service's socket address.
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.vip.ip(), self.port)
    }
    /// From two socket addresses.
    pub fn new(client: SocketAddr, vip: SocketAddr) -> Self {
        Self {
            client: client.ip().into(),
            vip: vip.ip().into(),
            client_port: client.port(),
            port: vip.port(),
        }
    }
}

/// A key of SipHash-1-3.
#[derive(Clone, Copy)]
pub struct HashKey([u8; 16]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl HashKey {
    /// From 16 secret bytes.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The two words of the key, as SipHash takes them.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 2] {
        let word = |at: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&self.0[at..at + 8]);
            u64::from_le_bytes(b)
        };
        [word(0), word(8)]
    }

    #[inline]
    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }

    /// Of a whole flow key.
    #[inline]
    pub fn flow(&self, k: &FlowKey) -> u64 {
        let mut b = [0u8; 36];
        b[..16].copy_from_slice(&k.client.0);
        b[16..32].copy_from_slice(&k.vip.0);
        b[32..34].copy_from_slice(&k.client_port.to_be_bytes());
        b[34..].copy_from_slice(&k.port.to_be_bytes());
        self.hasher().hash(&b)
    }

    /// Of a flow key, for tables of one worker: shorter for IPv4 than [`Self::flow`],
    /// which all nodes must compute alike.
    #[inline]
    pub fn slot(&self, k: &FlowKey) -> u64 {
        if !(k.client.is_v4() && k.vip.is_v4()) {
            return self.flow(k);
        }
        let mut b = [0u8; 12];
        b[..4].copy_from_slice(&k.client.0[12..]);
        b[4..8].copy_from_slice(&k.vip.0[12..]);
        b[8..10].copy_from_slice(&k.client_port.to_be_bytes());
        b[10..].copy_from_slice(&k.port.to_be_bytes());
        self.hasher().hash(&b)
    }

    /// Of an address alone.
    #[inline]
    pub fn addr(&self, a: &Addr) -> u64 {
        self.hasher().hash(&a.0)
    }
}
