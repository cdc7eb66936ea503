//! Both ends of a WebSocket (RFC 6455): messages that are sent back, and a look at each.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, bail};

use super::HOST;
use super::client::connect;

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// Bytes of each message, as a frame has them and as code counts.
const LENGTH: u16 = 1024;
const BYTES: usize = LENGTH as usize;
/// The nonce of RFC 6455's section 1.3, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A binary message in one frame: its first byte, its length (126: the next two bytes), and that the client masks it.
const BINARY: u8 = 0x82;
const LENGTH_FOLLOWS: u8 = 126;
const MASKED: u8 = 0x80;

/// Sends `count` messages over all connections, and checks that each comes back as it went.
pub(super) fn messages(target: SocketAddr, count: usize) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(open(target)?);
    }
    let (mut came, mut number) = ([0; BYTES + 4], 0_u32);
    for _ in 0..count.div_ceil(CONNECTIONS) {
        // All are on their way before the first is waited for, so that the proxy is never asked for one at a time.
        let first = number;
        for connection in &connections {
            connection.get_ref().write_all(&from_client(number))?;
            number = number.wrapping_add(1);
        }
        for (number, connection) in (first..).zip(&mut connections) {
            connection.read_exact(&mut came)?;
            if came[..] != from_server(&message(number)) {
                bail!("message {number} came back as {:?}...", &came[..16]);
            }
        }
    }
    Ok(())
}

/// Sends back each message.
pub(super) fn serve(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    if head(&mut reader)?.iter().any(|line| line.eq_ignore_ascii_case(&format!("Sec-WebSocket-Key: {KEY}"))) {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        write!(&*stream, "{head}\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n")?;
    } else {
        return Ok((&*stream).write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?);
    }
    let mut frame = [0; BYTES + 8];
    while !reader.fill_buf()?.is_empty() {
        reader.read_exact(&mut frame)?;
        let (start, masked) = frame.split_at(8);
        let mask = &start[4..];
        let message: Vec<u8> =
            masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        (&*stream).write_all(&from_server(&message))?;
    }
    Ok(())
}

fn open(target: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = connect(target)?;
    write!(
        &stream,
        "GET /echo HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )?;
    let mut reader = BufReader::new(stream);
    let head = head(&mut reader)?;
    let accepted =
        head.iter().any(|line| line.eq_ignore_ascii_case(&format!("Sec-WebSocket-Accept: {ACCEPT}")));
    if !accepted || !head.first().is_some_and(|line| line.starts_with("HTTP/1.1 101 ")) {
        bail!("no WebSocket: {}", head.join(" / "));
    }
    Ok(reader)
}

/// The lines up to the empty one.
fn head(reader: &mut impl BufRead) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("ended within the head: {}", lines.join(" / "));
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn message(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(BYTES / 4)
}

fn from_server(message: &[u8]) -> Vec<u8> {
    let [high, low] = LENGTH.to_be_bytes();
    [&[BINARY, LENGTH_FOLLOWS, high, low], message].concat()
}

fn from_client(number: u32) -> Vec<u8> {
    let [high, low] = LENGTH.to_be_bytes();
    let mask = number.wrapping_mul(0x9E37_79B9).to_be_bytes();
    let message = message(number);
    let masked: Vec<u8> = message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    [&[BINARY, MASKED | LENGTH_FOLLOWS, high, low][..], &mask, &masked].concat()
}
