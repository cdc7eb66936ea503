//! Sockets of somebody's in a namespace, of every kind that a port can be bound by.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{Netns, Unprivileged};

/// A kind of socket.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The address to bind.
    pub address: &'static str,
    /// Whether an IPv6 socket is for IPv6 alone.
    pub v6_only: bool,
}

/// IPv4, IPv6 alone, and both in one socket.
pub const KINDS: [Kind; 3] = [
    Kind { address: "0.0.0.0", v6_only: false },
    Kind { address: "::", v6_only: true },
    Kind { address: "::", v6_only: false },
];

impl Kind {
    /// Binds a UDP socket to `port`.
    ///
    /// # Errors
    ///
    /// The outer: `netns` can't be entered as `user`. The inner: what the kernel said.
    pub fn bind_udp(self, netns: &Netns, user: Unprivileged, port: u16) -> Result<io::Result<Socket>> {
        netns.enter_as(user, || self.bind(Type::DGRAM, Protocol::UDP, port))
    }

    /// Binds a TCP socket to `port`, with `SO_REUSEPORT`, and listens.
    ///
    /// # Errors
    ///
    /// As for [`Self::bind_udp`].
    pub fn listen(self, netns: &Netns, user: Unprivileged, port: u16) -> Result<io::Result<Socket>> {
        netns.enter_as(user, || {
            let socket = self.bind(Type::STREAM, Protocol::TCP, port)?;
            socket.listen(128)?;
            Ok(socket)
        })
    }

    /// Binds a TCP socket to `port`, which does not listen yet.
    ///
    /// # Errors
    ///
    /// As for [`Self::bind_udp`].
    pub fn bind_tcp(self, netns: &Netns, user: Unprivileged, port: u16) -> Result<io::Result<Socket>> {
        netns.enter_as(user, || self.bind(Type::STREAM, Protocol::TCP, port))
    }

    fn bind(self, kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
        let address = SocketAddr::new(self.address.parse().map_err(io::Error::other)?, port);
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(self.v6_only)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    }
}
