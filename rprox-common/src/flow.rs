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
