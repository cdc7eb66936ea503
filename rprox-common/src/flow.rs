//! Direct flows: connections from outside straight to a TO port, told from redirected ones under `--direct allow`.

use crate::Address;

/// A direct flow, as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirectFlow {
    /// The other end's address.
    pub remote: Address,
    /// This host's address.
    pub local: Address,
    /// The other end's port, in network order.
    pub remote_port: u16,
    /// This host's port, TO, in network order.
    pub local_port: u16,
    /// The [`Protocol`](crate::Protocol) as a number; a whole word, so that the key has no padding.
    pub protocol: u32,
}

/// The places in which it is noted whom a connection has been opened to from TO.
pub const OPENED_LEN: u32 = 4_096;

/// Which of the [`OPENED_LEN`] places is that of another end, whose port is in network order. Others share it.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "a place is below OPENED_LEN")]
pub const fn opened_place(remote: Address, remote_port: u16) -> u32 {
    (remote.scattered(remote_port as u32) >> (64 - OPENED_LEN.trailing_zeros())) as u32
}
