//! Version 2: binary.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Ends, HeaderError};

/// What it begins with, and no other protocol does.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The most that addresses and what follows them may take.
const LONGEST: usize = 4096;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Reads what follows the signature.
pub(super) async fn read(tcp: &mut TcpStream) -> Result<Option<Ends>, HeaderError> {
    let mut head = [0; 4];
    tcp.read_exact(&mut head).await?;
    let [command, family, length @ ..] = head;
    let length = usize::from(u16::from_be_bytes(length));
    if length > LONGEST {
        return Err(HeaderError::Malformed("more than 4096 bytes"));
    }
    let mut body = vec![0; length];
    tcp.read_exact(&mut body).await?;
    parse(command, family, &body)
}

fn parse(command: u8, family: u8, body: &[u8]) -> Result<Option<Ends>, HeaderError> {
    match command {
        // The sender's own connection, such as a health check's.
        LOCAL => return Ok(None),
        PROXY => {}
        _ => return Err(HeaderError::Malformed("not version 2, or a command other than LOCAL and PROXY")),
    }
    let room = match (family >> 4, family & 0xf) {
        (0, 0..=2) => 0,
        (1, 0..=2) => 12,
        (2, 0..=2) => 36,
        (3, 0..=2) => 216,
        _ => return Err(HeaderError::Malformed("a kind of address that the protocol does not know")),
    };
    let addresses = body.get(..room).ok_or(HeaderError::Malformed("too short for its addresses"))?;
    // Addresses of sockets that are not TCP's say nothing about a TCP connection.
    Ok(match family {
        TCP4 => ends::<4>(addresses),
        TCP6 => ends::<16>(addresses),
        _ => None,
    })
}

/// Two addresses of `N` bytes, then two ports.
fn ends<const N: usize>(addresses: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (client, rest) = addresses.split_first_chunk::<N>()?;
    let (server, rest) = rest.split_first_chunk::<N>()?;
    let (client_port, server_port) = rest.split_first_chunk::<2>()?;
    let end = |address: [u8; N], port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    Some(Ends { client: end(*client, *client_port), server: end(*server, *server_port.first_chunk()?) })
}

/// The header for `ends`, which are of one family.
pub(super) fn write(ends: Ends) -> Vec<u8> {
    let Ends { client, server } = ends;
    let (family, addresses) = match (client.ip(), server.ip()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            (TCP4, [client, server].map(Ipv4Addr::to_bits).map(u32::to_be_bytes).concat())
        }
        (client, server) => (TCP6, [client, server].map(bits).map(u128::to_be_bytes).concat()),
    };
    let ports = [client.port(), server.port()].map(u16::to_be_bytes).concat();
    let length = if family == TCP4 { 12_u16 } else { 36 };
    [&SIGNATURE[..], &[PROXY, family], &length.to_be_bytes(), &addresses, &ports].concat()
}

/// The header for a connection of the sender's own.
pub(super) fn local() -> Vec<u8> {
    [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}
