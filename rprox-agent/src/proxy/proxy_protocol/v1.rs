//! Version 1: a line of text.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::{FromStr, Split};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Ends, HeaderError};

const START: &[u8] = b"PROXY ";

/// The longest line, with its end.
const LONGEST: usize = 107;

/// Whether `bytes` begin a line, as far as they go.
pub(super) fn is_start(bytes: &[u8]) -> bool {
    let length = bytes.len().min(START.len());
    bytes[..length] == START[..length]
}

/// Reads the rest of a line that begins with `start`.
pub(super) async fn read(tcp: &mut TcpStream, start: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let mut line = [0; LONGEST];
    line[..start.len()].copy_from_slice(start);
    let mut length = start.len();
    while !line[..length].ends_with(b"\n") {
        if length == LONGEST {
            return Err(HeaderError::Malformed("a line of more than 107 bytes"));
        }
        // What comes after the line is not for us: look first, then take.
        let seen = tcp.peek(&mut line[length..]).await?;
        let seen = &line[length..length + seen];
        let taken = seen.iter().position(|byte| *byte == b'\n').map_or(seen.len(), |end| end + 1);
        if taken == 0 {
            return Err(HeaderError::Malformed("a line without its end"));
        }
        tcp.read_exact(&mut line[length..length + taken]).await?;
        length += taken;
    }
    parse(&line[..length])
}

fn parse(line: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(START));
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let mut fields = line.ok_or(HeaderError::Malformed("not a line of text"))?.split(' ');
    match fields.next() {
        Some("UNKNOWN") => Ok(None),
        Some("TCP4") => ends::<Ipv4Addr>(fields).map(Some),
        Some("TCP6") => ends::<Ipv6Addr>(fields).map(Some),
        _ => Err(HeaderError::Malformed("none of TCP4, TCP6 and UNKNOWN")),
    }
}

fn ends<A>(fields: Split<'_, char>) -> Result<Ends, HeaderError>
where
    A: FromStr,
    SocketAddr: From<(A, u16)>,
{
    let fields: Vec<_> = fields.collect();
    let [client, server, client_port, server_port] = fields[..] else {
        return Err(HeaderError::Malformed("not two addresses and two ports"));
    };
    let end = |address: &str, port: &str| {
        let address = address.parse::<A>().ok().zip(parse_port(port)).map(SocketAddr::from);
        address.ok_or(HeaderError::Malformed("an address or a port that is none"))
    };
    Ok(Ends { client: end(client, client_port)?, server: end(server, server_port)? })
}

/// A number without sign or leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || text.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    if is_plain { text.parse().ok() } else { None }
}

/// The line for `ends`, which are of one family.
pub(super) fn write(ends: Ends) -> Vec<u8> {
    let Ends { client, server } = ends;
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), server.ip(), client.port(), server.port())
        .into_bytes()
}
