//! Addresses of this host, as the kernel programs look them up.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as one map key: IPv6 in network order, IPv4 mapped into it (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
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

/// The places of [`AddressSlot`]s.
pub const ADDRESS_SLOTS: u32 = 4_096;

/// A place of the table that is asked about an address before the hash: every address of this host has one place, by
/// [`Address::slot`], and of those that share a place one stands in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddressSlot {
    /// The address in it, as [`Address::halves`] has it.
    pub halves: [u64; 2],
    /// 1 where there is one, else 0. It is written behind the address, as one word, so that a reader never takes half an
    /// address for none.
    pub used: u64,
}

impl AddressSlot {
    /// A place with `address` in it.
    #[must_use]
    pub const fn with(address: Address) -> Self {
        Self { halves: address.halves(), used: 1 }
    }
}

impl Address {
    /// It as two numbers, which are compared faster than four, or sixteen bytes.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> [u64; 2] {
        let Self([a, b, c, d]) = self;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// The address of two such numbers.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "each word is half of a number")]
    pub const fn from_halves([high, low]: [u64; 2]) -> Self {
        Self([high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32])
    }

    /// Its place among the [`ADDRESS_SLOTS`].
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a place is below ADDRESS_SLOTS")]
    pub const fn slot(self) -> u32 {
        (self.scattered(0) >> (64 - ADDRESS_SLOTS.trailing_zeros())) as u32
    }

    /// A hash of it and of a number, best in the upper bits.
    #[inline(always)]
    pub(crate) const fn scattered(self, with: u32) -> u64 {
        /// 2^64 divided by the golden ratio: neighbours land far from each other (Knuth, vol. 3, section 6.4).
        const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

        let [high, low] = self.halves();
        (high ^ low ^ with as u64).wrapping_mul(SCATTER)
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
