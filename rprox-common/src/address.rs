//! Addresses of this host, as the kernel programs look them up.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as one map key: IPv6 in network order, IPv4 mapped into it (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// 0.0.0.0, to which a socket for any IPv4 address is bound.
    pub const UNSPECIFIED_V4: Self = Self::from_v4_raw(0);
    /// `::`, to which a socket for any IPv6 address is bound, and, unless it is for IPv6 alone, for any IPv4 address.
    pub const UNSPECIFIED_V6: Self = Self([0; 4]);

    /// The key of an IPv4 address whose four bytes, as they stand in the packet, are read as `raw`.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_raw(raw: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), raw])
    }

    /// Its bytes as they go over the wire.
    #[inline(always)]
    #[must_use]
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *bytes = word.to_ne_bytes();
        }
        octets
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_raw(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.octets().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self(words)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}
