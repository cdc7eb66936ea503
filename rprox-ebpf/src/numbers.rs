//! Numbers of the socket interface that the bindings lack, as programs on sockets see them.

/// Of linux/socket.h.
pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;

/// Of linux/in.h.
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
