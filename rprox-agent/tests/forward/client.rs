//! Clients: raw bytes over TCP, and over TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::agent::{Agent, PATIENCE};

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A response, its head apart from its body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `request` on a connection of its own and reads the response.
pub(crate) fn ask(agent: &Agent, request: &str) -> Reply {
    let mut stream = connect(agent.http);
    stream.write_all(request.as_bytes()).unwrap();
    read_reply(&mut stream)
}

/// `GET path` from `host`.
pub(crate) fn get(agent: &Agent, host: &str, path: &str) -> Reply {
    ask(agent, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

/// Sends `request` over TLS to `name` and reads the response.
pub(crate) fn ask_over_tls(agent: &Agent, name: &'static str, request: &str) -> Reply {
    let mut stream = connect_over_tls(agent, name);
    stream.write_all(request.as_bytes()).unwrap();
    read_reply(&mut stream)
}

/// A TLS connection for `name`.
pub(crate) fn connect_over_tls(agent: &Agent, name: &'static str) -> TlsStream {
    over_tls(agent, name, connect(agent.https))
}

/// TLS for `name` over a connection that is there already.
pub(crate) fn over_tls(agent: &Agent, name: &'static str, stream: TcpStream) -> TlsStream {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(agent.certificate.clone())).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, stream)
}

/// Reads a response with a `Content-Length`, or none.
pub(crate) fn read_reply(stream: &mut impl Read) -> Reply {
    let head = read_head(stream);
    let mut reply = Reply { head, body: Vec::new() };
    let length = reply.field("content-length").map_or(0, |length| length.parse().unwrap());
    reply.body.resize(length, 0);
    stream.read_exact(&mut reply.body).unwrap();
    reply
}

/// Reads up to the empty line.
pub(crate) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read(&mut byte).unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads until the other side closes.
pub(crate) fn read_to_close(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("still open: {error}"),
        _ => bytes,
    }
}

/// Sends so many bytes and closes its half, while they come back; what comes behind them until the other side closes.
pub(crate) fn echo_of(stream: &mut TcpStream, bytes: u32) -> Vec<u8> {
    let bulk: Vec<u8> = (0..bytes).map(|number| number.to_le_bytes()[1]).collect();
    let sender = std::thread::spawn({
        let (mut stream, bulk) = (stream.try_clone().unwrap(), bulk.clone());
        move || {
            stream.write_all(&bulk).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut echoed = read_to_close(stream);
    sender.join().unwrap();
    assert!(echoed.starts_with(&bulk), "the bytes come back as they were sent");
    echoed.split_off(bulk.len())
}
