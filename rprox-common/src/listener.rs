//! Listening sockets that mode `steer` may give connections to.

use crate::Address;

/// The most listening sockets that are remembered for one address and port. Of a larger `SO_REUSEPORT` group, which the kernel
/// spreads connections over by itself, any member will do.
pub const MAX_LISTENERS_PER_ADDRESS: u32 = 32;

/// The most listening sockets that an attachment remembers.
pub const MAX_LISTENERS: u32 = 4_096;

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
