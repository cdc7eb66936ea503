//! Listeners that a service manager opened and passed on, by the protocol of `sd_listen_fds(3)`.
//!
//! That is how a rootless container gets a socket in the host's network namespace, and with it the client's own address.

#![allow(unsafe_code, reason = "a passed descriptor is known by its number alone")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use socket2::{Socket, Type};

use crate::proxy::listen::Group;

/// What can be wrong with passed sockets.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The environment contradicts itself.
    #[error("LISTEN_PID, LISTEN_FDS or LISTEN_FDNAMES: {0}; is the agent started by a socket unit?")]
    Environment(#[source] io::Error),
    /// A socket that isn't one to accept on.
    #[error("the passed socket {name:?} (descriptor {fd}) is not a listening TCP socket; use ListenStream=")]
    NotListening {
        /// Its name.
        name: String,
        /// Its descriptor.
        fd: RawFd,
    },
    /// A socket of which nobody says what it is for.
    #[error(
        "the passed socket {name:?} on {address} is neither http nor https by its name; set FileDescriptorName=http or \
         FileDescriptorName=https in its socket unit"
    )]
    Name {
        /// Its name.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
    /// The kernel refused.
    #[error("the passed socket {name:?} (descriptor {fd}): {error}")]
    Socket {
        /// Its name.
        name: String,
        /// Its descriptor.
        fd: RawFd,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

/// The passed sockets; none where none were passed.
///
/// # Errors
///
/// When what was passed can't be served.
pub fn listeners() -> Result<Vec<Group>, ActivationError> {
    let passed = sd_notify::listen_fds_with_names(false).map_err(ActivationError::Environment)?;
    passed.map(|(fd, name)| listener(fd, name)).collect()
}

/// Takes a descriptor that this process was started with.
///
/// # Errors
///
/// When there is none of that number.
pub(super) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for a look only, which fails where there is none.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: it is open, was opened for this process by the one that started it, and nobody else takes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn listener(fd: RawFd, name: String) -> Result<Group, ActivationError> {
    // SAFETY: the service manager passed the descriptor to this process, which looks here once; a closed one only fails.
    let socket = unsafe { Socket::from_raw_fd(fd) };
    let refused = |name, error| ActivationError::Socket { name, fd, error };
    let address = match (socket.is_listener(), socket.r#type(), socket.local_addr()) {
        (Err(error), ..) => return Err(refused(name, error)),
        (Ok(true), Ok(Type::STREAM), Ok(address)) => address.as_socket(),
        _ => None,
    };
    let Some(address) = address else { return Err(ActivationError::NotListening { name, fd }) };
    let Some(secure) = is_secure(&name, address.port()) else {
        return Err(ActivationError::Name { name, address });
    };
    Group::passed(vec![socket], secure).map_err(|error| refused(name, error))
}

/// By name; without one, as Podman before 5 passes sockets, by the port.
fn is_secure(name: &str, port: u16) -> Option<bool> {
    match (name, port) {
        ("http", _) | ("unknown" | "", 80 | 8080) => Some(false),
        ("https", _) | ("unknown" | "", 443 | 8443) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_what_a_socket_is_for_and_the_port_where_there_is_none() {
        assert_eq!(is_secure("http", 443), Some(false));
        assert_eq!(is_secure("https", 80), Some(true));
        assert_eq!(is_secure("unknown", 8080), Some(false));
        assert_eq!(is_secure("unknown", 8443), Some(true));
        assert_eq!(is_secure("unknown", 9000), None);
        assert_eq!(is_secure("rprox.socket", 8080), None);
    }
}
