//! Listening sockets that mode `steer` may give connections to.

use crate::Address;

/// The most listening sockets that are remembered for one address and port. Of a larger `SO_REUSEPORT` group, which the kernel
/// spreads connections over by itself, any member will do for as long as it listens; so the latest are remembered.
pub const MAX_LISTENERS_PER_ADDRESS: u32 = 32;

/// The most listening sockets that an attachment remembers.
pub const MAX_LISTENERS: u32 = 4_096;

/// The places in which it is noted that somebody has listened.
pub const LISTENED_LEN: u32 = 4_096;

/// The most sockets whose binder is remembered; beyond it the one least recently looked at goes.
pub const MAX_BOUND_SOCKETS: u32 = 4_096;

/// The owner where there is no port guard; the kernel gives this id to no user.
pub const ANY_OWNER: u32 = u32::MAX;

/// Where a listening socket is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// The address that it is bound to.
    pub address: Address,
    /// The port that it is bound to, in host order; a whole word, so that the key has no padding.
    pub port: u32,
    /// Its place among those of the same address and port, below [`MAX_LISTENERS_PER_ADDRESS`].
    pub slot: u32,
}

impl Listener {
    /// Which of the [`LISTENED_LEN`] places is that of its address and port. Others share it: where nobody has listened on any of them,
    /// nobody listens here.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a place is below LISTENED_LEN")]
    pub const fn place(&self) -> u32 {
        (self.address.scattered(self.port) >> (64 - LISTENED_LEN.trailing_zeros())) as u32
    }
}
