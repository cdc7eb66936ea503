//! HTTP/2 frames as bytes, and a connection that sends any of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

/// A whole request's head.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block: each field as a literal that isn't indexed (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &str) {
    // One byte for each character, so that tests can write any.
    let bytes: Vec<u8> = text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
    let mut length = bytes.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend(bytes);
}

/// A request's pseudo-header fields, and `more`.
pub(crate) fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.example")];
    fields.extend(more);
    block(&fields)
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a `GOAWAY` or `RST_STREAM`.
    pub(crate) fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()))
    }

    /// The status of a response, which comes first in it.
    pub(crate) fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        // A change of the table's size may come before.
        let field = self.payload.iter().position(|byte| byte & 0xe0 != 0x20)?;
        let block = &self.payload[field..];
        let known = [200, 204, 206, 304, 400, 404, 500];
        if let Some(status) = block[0].checked_sub(0x88).and_then(|index| known.get(usize::from(index))) {
            return Some(*status);
        }
        // A literal with the name of entry 8 to 14.
        let (length, text) = (block[1] & 0x7f, &block[2..]);
        let text = &text[..usize::from(length)];
        if block[1] & 0x80 == 0 {
            std::str::from_utf8(text).ok()?.parse().ok()
        } else {
            Some(huffman_digits(text))
        }
    }
}

/// Digits by RFC 7541's code: 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1))).collect();
    let number = |bits: &[u16]| bits.iter().fold(0, |sum, bit| sum * 2 + bit);
    let (mut status, mut at) = (0, 0);
    while let Some(five) = bits.get(at..at + 5).map(number) {
        let six = bits.get(at..at + 6).map(number);
        let (digit, length) = match six {
            _ if five <= 2 => (five, 5),
            Some(six @ 0x19..=0x1f) => (six - 0x16, 6),
            _ => break,
        };
        status = status * 10 + digit;
        at += length;
    }
    status
}

/// One end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Peer {
    /// Connects, and sends nothing.
    pub(crate) fn silent(address: SocketAddr, patience: Duration) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Connects, and sends the preface with `settings`.
    pub(crate) fn connect(address: SocketAddr, patience: Duration, settings: &[u8]) -> Self {
        let mut peer = Self::silent(address, patience);
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings), &frame(SETTINGS, ACK, 0, &[])].concat());
        peer
    }

    /// Sends bytes; whether the other end still takes any.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end.
    ///
    /// # Panics
    ///
    /// When nothing comes in time.
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        self.try_receive().expect("a frame or the end in time")
    }

    /// The next frame or the end; an error when nothing comes in time.
    pub(crate) fn try_receive(&mut self) -> Result<Option<Frame>, ErrorKind> {
        let mut piece = [0; 16384];
        loop {
            if let Some(frame) = self.unread_frame() {
                return Ok(Some(frame));
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(length) => self.unread.extend(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.kind()),
            }
        }
    }

    /// Takes what has come without waiting for more; whether the connection is still open.
    pub(crate) fn drain(&mut self) -> bool {
        let mut piece = [0; 16_384];
        self.stream.set_nonblocking(true).unwrap();
        let open = loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        self.stream.set_nonblocking(false).unwrap();
        open
    }

    fn unread_frame(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.unread.get(..9)?.try_into().unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }
}
