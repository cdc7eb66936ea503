//! An address that DNS has for an upstream.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;

/// Where one endpoint of an upstream is, and how much of its requests it should get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub socket: SocketAddr,
    /// Those with the lowest serve, and others only while none of those can (RFC 2782).
    pub priority: u16,
    /// Its share, as against others of the same priority; 1 at least.
    pub weight: u32,
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self { socket, priority: 0, weight: 1 }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(formatter)
    }
}
