//! This thread's network namespace, as programs know it.

#![allow(unsafe_code, reason = "no safe wrapper has SO_NETNS_COOKIE")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, socket};

/// The cookie of the network namespace (Linux 5.14; before it no program of ours can tell namespaces apart).
///
/// # Errors
///
/// The kernel has none.
pub fn cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the pointers are to our own values, and the length is that of the cookie.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The network namespace as a file, to attach to.
///
/// # Errors
///
/// `/proc` is not mounted.
pub fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}
