//! Finds TCP sockets that are bound to a port and don't listen yet. `/proc/net` has no such sockets; `sock_diag(7)` tells them since
//! Linux 6.8, and older kernels nobody.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;

use rtnetlink::sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use tracing::debug;

/// A bound socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its port.
    pub port: u16,
    /// Whose it is.
    pub user: u32,
    /// What the kernel's programs know it by.
    pub cookie: u64,
    /// Its inode, which the descriptors of its holders name.
    pub inode: u64,
}

/// `TCP_BOUND_INACTIVE` of `include/net/tcp_states.h`.
const BOUND_INACTIVE: u32 = 13;
/// Of `linux/sock_diag.h` and `linux/netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const FAMILIES: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];
/// `struct nlmsghdr`, and behind it `struct inet_diag_req_v2`.
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = HEADER_LEN + 56;
/// `struct inet_diag_msg`.
const ANSWER_LEN: usize = 72;

/// The TCP sockets of this network namespace that are bound to one of `ports` and don't listen, as far as the kernel tells.
#[must_use]
pub fn find(ports: &BTreeSet<u16>) -> Vec<Bound> {
    let mut found = Vec::new();
    for family in FAMILIES {
        match ask(family) {
            Ok(bound) => found.extend(bound.into_iter().filter(|bound| ports.contains(&bound.port))),
            Err(error) => debug!("looking for sockets that are bound and don't listen: {error}"),
        }
    }
    found
}

fn ask(family: libc::c_int) -> io::Result<Vec<Bound>> {
    let mut socket = Netlink::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send_to(&request(family), &SocketAddr::new(0, 0), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !read(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

/// A request for all sockets of `family` that are bound only.
fn request(family: libc::c_int) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_LEN);
    request.extend(u32::try_from(REQUEST_LEN).unwrap_or_default().to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    let byte = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
    request.extend([byte(family), byte(libc::IPPROTO_TCP), 0, 0]);
    request.extend((1_u32 << BOUND_INACTIVE).to_ne_bytes());
    request.resize(REQUEST_LEN, 0);
    request
}

/// Reads the messages of `datagram`. Returns whether more follow.
fn read(mut datagram: &[u8], found: &mut Vec<Bound>) -> io::Result<bool> {
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
fn socket(message: &[u8]) -> Option<Bound> {
    let message: &[u8; ANSWER_LEN] = message.first_chunk()?;
    let word = |place: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(message.get(place..)?.first_chunk().copied()?))
    };
    Some(Bound {
        port: u16::from_be_bytes([message[4], message[5]]),
        user: word(64)?,
        // The kernel gives the lower half first.
        cookie: u64::from(word(44)?) | u64::from(word(48)?) << 32,
        inode: word(68)?.into(),
    })
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
        let bound = Bound { port: 8080, user: 1000, cookie: 0x1_0000_0007, inode: 4711 };
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
    fn asks_without_an_error() {
        assert_eq!(find(&BTreeSet::new()), []);
    }
}
