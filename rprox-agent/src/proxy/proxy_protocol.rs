//! The PROXY protocol, by which a load balancer says whose connection it passes on: versions 1 and 2, read and written.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

#![forbid(unsafe_code)]

mod v1;
mod v2;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::timer::timeout;

/// The ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// The one that it connected to.
    pub server: SocketAddr,
}

impl Ends {
    /// Both as IPv4 or both as IPv6: a header has room for one kind.
    fn of_one_family(self) -> Self {
        let Self { client, server } = self;
        let (client, server) = match (client.ip().to_canonical(), server.ip().to_canonical()) {
            (client @ IpAddr::V4(_), server @ IpAddr::V4(_))
            | (client @ IpAddr::V6(_), server @ IpAddr::V6(_)) => (client, server),
            (client, server) => (mapped(client), mapped(server)),
        };
        Self {
            client: SocketAddr::new(client, self.client.port()),
            server: SocketAddr::new(server, self.server.port()),
        }
    }
}

fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    }
}

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// The header for a connection between `ends`.
    #[must_use]
    pub fn header(self, ends: Ends) -> Vec<u8> {
        let ends = ends.of_one_family();
        match self {
            Self::V1 => v1::write(ends),
            Self::V2 => v2::write(ends),
        }
    }

    /// The header for a connection of our own.
    #[must_use]
    pub fn own_header(self) -> Vec<u8> {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Self::V2 => v2::local(),
        }
    }
}

/// Why a connection's header is not one to go by.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Nothing came, as from a health check that only connects.
    #[error("closed without a PROXY header")]
    Closed,
    /// The connection broke, or ended within the header.
    #[error("the PROXY header can't be read: {0}")]
    Broken(#[from] io::Error),
    /// The time is over.
    #[error("no whole PROXY header within timeouts.header")]
    Late,
    /// Something else came.
    #[error(
        "it does not begin with a PROXY header; does the load balancer send one? listen.proxy_protocol says who must"
    )]
    Absent,
    /// A header that does not keep to the protocol.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads the header that a connection begins with, and nothing beyond it. `None`: the header is not about another
/// connection, and the ends are this one's.
///
/// # Errors
///
/// When there is no good one within `limit`.
pub async fn receive(tcp: &mut TcpStream, limit: Duration) -> Result<Option<Ends>, HeaderError> {
    timeout(limit, read(tcp)).await.ok_or(HeaderError::Late)?
}

async fn read(tcp: &mut TcpStream) -> Result<Option<Ends>, HeaderError> {
    // The shortest header of version 1 is longer than the signature of version 2.
    let mut start = [0; v2::SIGNATURE.len()];
    let read = tcp.read(&mut start).await?;
    if read == 0 {
        return Err(HeaderError::Closed);
    }
    if !v2::SIGNATURE.starts_with(&start[..read]) && !v1::is_start(&start[..read]) {
        return Err(HeaderError::Absent);
    }
    tcp.read_exact(&mut start[read..]).await?;
    match &start {
        v2::SIGNATURE => v2::read(tcp).await,
        start if v1::is_start(start) => v1::read(tcp, start).await,
        _ => Err(HeaderError::Absent),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of `bytes`, and what is left of them.
    async fn received(bytes: &[u8]) -> (Result<Option<Ends>, HeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut receiver, _) = listener.accept().await.unwrap();
        sender.write_all(bytes).await.unwrap();
        drop(sender);
        let header = receive(&mut receiver, Duration::from_secs(20)).await;
        let mut left = Vec::new();
        let _ = receiver.read_to_end(&mut left).await;
        (header, left)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn ends(client: &str, server: &str) -> Ends {
        Ends { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&v2::SIGNATURE[..], &[version_and_command, family], &length, body].concat()
    }

    #[test]
    fn what_is_written_is_read_and_not_a_byte_more() {
        for ends in [
            ends("192.0.2.1:65535", "198.51.100.255:443"),
            ends("[2001:db8::1]:1024", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ] {
            for version in [Version::V1, Version::V2] {
                let bytes = [version.header(ends), b"GET / HTTP/1.1\r\n".to_vec()].concat();
                let (header, left) = run(received(&bytes));
                assert_eq!(header.unwrap(), Some(ends), "{version:?}");
                assert_eq!(left, b"GET / HTTP/1.1\r\n");
            }
        }
    }

    #[test]
    fn what_is_written_of_a_connection_of_our_own_says_so() {
        for version in [Version::V1, Version::V2] {
            assert_eq!(run(received(&version.own_header())).0.unwrap(), None);
        }
    }

    #[test]
    fn ends_of_two_families_are_written_as_one() {
        let written = Version::V1.header(ends("192.0.2.1:1", "[2001:db8::1]:80"));
        assert_eq!(written, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 80\r\n");
        let written = Version::V1.header(ends("[::ffff:192.0.2.1]:1", "192.0.2.2:80"));
        assert_eq!(written, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n");
    }

    #[test]
    fn a_header_about_no_connection_leaves_the_ends_as_they_are() {
        let unix = [0; 216];
        for bytes in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 whatever\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &[1; 12]),
            v2(0x20, 0xff, &[1; 300]),
            v2(0x21, 0x00, &[]),
            v2(0x21, 0x00, &[7; 40]),
            v2(0x21, 0x31, &unix),
            v2(0x21, 0x12, &[1; 12]),
        ] {
            let (header, left) = run(received(&[bytes.as_slice(), b"rest"].concat()));
            assert_eq!(header.unwrap(), None, "{bytes:?}");
            assert_eq!(left, b"rest");
        }
    }

    #[test]
    fn what_follows_the_addresses_is_skipped() {
        let tlv = [4, 0, 3, 1, 2, 3];
        let body = [&[192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 80], &tlv[..]].concat();
        let (header, left) = run(received(&[v2(0x21, 0x11, &body).as_slice(), b"rest"].concat()));
        assert_eq!(header.unwrap(), Some(ends("192.0.2.1:9", "192.0.2.2:80")));
        assert_eq!(left, b"rest");
    }

    #[test]
    fn each_malformed_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\x16\x03\x01",
            b"PROXY",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\n\n\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80 1\r\n",
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 80\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 80\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 80\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n",
            b"PROXY TCP4 192.0.2.1 2001:db8::1 1 80\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::1 1 80\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 80\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 80\r\n",
            b"proxy tcp4 192.0.2.1 192.0.2.2 1 80\r\n",
            b"PROXY TCP4 192.0.2.1\r192.0.2.2 1 80\r\n",
            long.as_bytes(),
            &v2(0x11, 0x11, &[1; 12]),
            &v2(0x22, 0x11, &[1; 12]),
            &v2(0x21, 0x11, &[1; 11]),
            &v2(0x21, 0x21, &[1; 35]),
            &v2(0x21, 0x31, &[1; 215]),
            &v2(0x21, 0x41, &[1; 300]),
            &v2(0x21, 0x13, &[1; 12]),
            &v2(0x21, 0x11, &[1; 5000]),
            &v2(0x21, 0x11, &[1; 12])[..20],
        ] {
            let (header, _) = run(received(bytes));
            assert!(header.is_err(), "{header:?}: {:?}", String::from_utf8_lossy(bytes));
        }
    }
}
