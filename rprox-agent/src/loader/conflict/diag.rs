//! Asks `sock_diag(7)` for what `/proc/net` doesn't tell of TCP sockets.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;

use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use tracing::debug;

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its port.
    pub port: u16,
    /// Whose it is.
    pub user: u32,
    /// What the kernel's programs know it by.
    pub cookie: u64,
    /// Its inode, which the descriptors of its holders name.
    pub inode: u64,
    /// Whether it is the TCP socket below one of MPTCP.
    pub is_mptcp: bool,
}

/// Of `linux/sock_diag.h` and `linux/netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Of `linux/inet_diag.h`: with a socket's `struct tcp_info` the kernel tells what lies above it.
const INET_DIAG_INFO: u8 = 2;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;
/// Set in the kind of an attribute that holds others.
const NLA_F_NESTED: u16 = 1 << 15;

const FAMILIES: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];
/// `struct nlmsghdr`, and behind it `struct inet_diag_req_v2`.
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = HEADER_LEN + 56;
/// `struct inet_diag_msg`.
const ANSWER_LEN: usize = 72;

/// The TCP sockets of this network namespace that are in `state` (`include/net/tcp_states.h`) and on one of `ports`, as far as the
/// kernel tells.
#[must_use]
pub(super) fn find(state: u32, ports: &BTreeSet<u16>) -> Vec<Found> {
    let mut found = Vec::new();
    for family in FAMILIES {
        match ask(family, state) {
            Ok(sockets) => found.extend(sockets.into_iter().filter(|socket| ports.contains(&socket.port))),
            Err(error) => debug!("asking for TCP sockets in state {state}: {error}"),
        }
    }
    found
}

fn ask(family: libc::c_int, state: u32) -> io::Result<Vec<Found>> {
    let mut socket = Netlink::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send_to(&request(family, state), &SocketAddr::new(0, 0), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !read(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

/// A request for all sockets of `family` in `state`.
fn request(family: libc::c_int, state: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_LEN);
    request.extend(u32::try_from(REQUEST_LEN).unwrap_or_default().to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    let byte = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
    request.extend([byte(family), byte(libc::IPPROTO_TCP), 1 << (INET_DIAG_INFO - 1), 0]);
    request.extend((1_u32 << state).to_ne_bytes());
    request.resize(REQUEST_LEN, 0);
    request
}

/// Reads the messages of `datagram`. Returns whether more follow.
fn read(mut datagram: &[u8], found: &mut Vec<Found>) -> io::Result<bool> {
    while let Some(header) = datagram.first_chunk::<HEADER_LEN>() {
        let [a, b, c, d, kind @ ..] = *header;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let message = datagram.get(HEADER_LEN..len).ok_or(io::ErrorKind::InvalidData)?;
        match u16::from_ne_bytes([kind[0], kind[1]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = message.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                return Err(io::Error::from_raw_os_error(-code));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(socket(message)),
            _ => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Reads a `struct inet_diag_msg`.
fn socket(message: &[u8]) -> Option<Found> {
    let (message, attributes) = message.split_first_chunk::<ANSWER_LEN>()?;
    let word = |place: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(message.get(place..)?.first_chunk().copied()?))
    };
    Some(Found {
        port: u16::from_be_bytes([message[4], message[5]]),
        user: word(64)?,
        // The kernel gives the lower half first.
        cookie: u64::from(word(44)?) | u64::from(word(48)?) << 32,
        inode: word(68)?.into(),
        is_mptcp: upper_protocol(attributes).is_some_and(|name| name == b"mptcp"),
    })
}

/// The name of what lies above a TCP socket, of its attributes.
fn upper_protocol(attributes: &[u8]) -> Option<Vec<u8>> {
    let find = |attributes: &[u8], kind: u16| {
        let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
        let found = attributes.find(|attribute| attribute.kind() & !NLA_F_NESTED == kind)?;
        Some(found.value().to_vec())
    };
    let mut name = find(&find(attributes, INET_DIAG_ULP_INFO)?, INET_ULP_INFO_NAME)?;
    // A string as C has them.
    name.pop_if(|byte| *byte == 0);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bound socket of user 1000 on port 8080, as Linux 6.18 tells it.
    fn message() -> Vec<u8> {
        let mut message = vec![0; HEADER_LEN + ANSWER_LEN];
        message[..4].copy_from_slice(&88_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let body = &mut message[HEADER_LEN..];
        body[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        body[44..48].copy_from_slice(&7_u32.to_ne_bytes());
        body[48..52].copy_from_slice(&1_u32.to_ne_bytes());
        body[64..68].copy_from_slice(&1000_u32.to_ne_bytes());
        body[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        message
    }

    #[test]
    fn reads_what_the_kernel_tells() {
        let done = [&[20, 0, 0, 0, 3, 0][..], &[0; 14]].concat();
        let mut found = Vec::new();
        assert!(!read(&[message(), message(), done].concat(), &mut found).unwrap());
        let bound = Found { port: 8080, user: 1000, cookie: 0x1_0000_0007, inode: 4711, is_mptcp: false };
        assert_eq!(found, [bound, bound]);
    }

    #[test]
    fn what_is_cut_short_or_an_error_is_no_socket() {
        let mut found = Vec::new();
        for len in 0..HEADER_LEN + ANSWER_LEN {
            let _ = read(&message()[..len], &mut found);
        }
        assert_eq!(found, []);
        let refused =
            [&36_u32.to_ne_bytes()[..], &[2, 0], &[0; 10], &(-2_i32).to_ne_bytes(), &[0; 16]].concat();
        assert_eq!(read(&refused, &mut found).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_lies_above_a_socket_is_told_by_its_attributes() {
        // As Linux 6.18 tells it: `INET_DIAG_ULP_INFO`, which it does not mark as one that holds others, and the name in it.
        let name = [&[10, 0, 1, 0][..], b"mptcp\0\0\0"].concat();
        let other = [&[8, 0, 3, 0][..], &[0; 4]].concat();
        for kind in [INET_DIAG_ULP_INFO, INET_DIAG_ULP_INFO | NLA_F_NESTED] {
            let outer = [&[16, 0][..], &kind.to_ne_bytes()].concat();
            let attributes = [&other[..], &outer, &name].concat();
            assert_eq!(upper_protocol(&attributes).as_deref(), Some(&b"mptcp"[..]));
            for len in 0..other.len() + 8 {
                assert_eq!(upper_protocol(&attributes[..len]), None);
            }
        }
        assert_eq!(upper_protocol(&other), None);
    }
}
