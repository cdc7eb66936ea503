//! Which of an HTTP/1.1 client's bytes hyper gets to see: none that two parsers could read two ways.
//!
//! RFC 9112 lets a recipient take a lone LF for a line's end, several `Content-Length` or one beside `Transfer-Encoding`,
//! and hyper does. Whoever stands before us may read that differently, so here it is refused. What follows a head is hyper's
//! word: no second opinion on where a message ends can arise from this.

#![forbid(unsafe_code)]

use std::mem;
use std::task::{Context, Waker};

use memchr::memchr;

/// As much of a line as tells what it is: the longest name that matters, with its colon.
const START: usize = b"transfer-encoding:".len();

/// More digits than a size needs (RFC 9112 section 7.1 wants integers that overflow to be expected).
const SIZE_DIGITS: usize = 16;

/// Follows a client's bytes from message to message.
#[derive(Debug)]
pub struct Framing {
    part: Part,
    line: Line,
    /// Who asked for more when it could not be told what that is.
    waiting: Option<Waker>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A head's lines. `begun`: after its first; `framed`: after one that says how long the body is; `padded`: after an empty
    /// line before it.
    Head { begun: bool, framed: bool, padded: bool },
    /// Something that only hyper knows, since it read the head.
    Unknown,
    /// Something that only the response to an upgrade tells.
    Open,
    /// Bytes of a body with a length.
    Body(u64),
    /// A chunk's size and extensions.
    ChunkSize,
    /// Bytes of a chunk.
    Chunk(u64),
    /// The end of a chunk's last line.
    ChunkEnd,
    /// Trailer fields.
    Trailers,
    /// Anything: it isn't HTTP/1.1 any more.
    Opaque,
    /// Nothing: the message was refused.
    Refused,
}

const HEAD: Part = Part::Head { begun: false, framed: false, padded: false };

/// A message's body, as hyper has read its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; may be none.
    Length(u64),
    /// Chunks.
    Chunked,
    /// None, and what follows may be another protocol.
    Open,
}

/// What became of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many of them are good.
    pub length: usize,
    /// Why the next is not.
    pub refused: Option<&'static str>,
}

/// A line as far as it has come.
#[derive(Debug, Default)]
struct Line {
    start: [u8; START],
    length: usize,
    last: u8,
}

impl Framing {
    /// Before the first head.
    #[must_use]
    pub fn http1() -> Self {
        Self { part: HEAD, line: Line::default(), waiting: None }
    }

    /// For a connection that speaks something else.
    #[must_use]
    pub fn opaque() -> Self {
        Self { part: Part::Opaque, line: Line::default(), waiting: None }
    }

    /// hyper has read a head.
    pub fn follows(&mut self, body: Body) {
        if matches!(self.part, Part::Unknown) {
            self.part = match body {
                Body::Length(0) => HEAD,
                Body::Length(length) => Part::Body(length),
                Body::Chunked => Part::ChunkSize,
                Body::Open => Part::Open,
            };
            self.wake();
        }
    }

    /// The response is no upgrade's.
    pub fn stays_http(&mut self) {
        if matches!(self.part, Part::Open) {
            self.part = HEAD;
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// Wakes the task of `cx` once more can be taken.
    pub fn wait(&mut self, cx: &Context<'_>) {
        self.waiting = Some(cx.waker().clone());
    }

    /// Whether the message was refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.part, Part::Refused)
    }

    /// Whether the last message has come whole, and nothing of the next.
    #[must_use]
    pub fn is_between(&self) -> bool {
        matches!(self.part, Part::Head { begun: false, .. } | Part::Open)
    }

    /// Takes what is good of `bytes`, up to the end of a head at most.
    pub fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            match self.part {
                Part::Unknown | Part::Open | Part::Refused => break,
                Part::Opaque => taken = bytes.len(),
                Part::Body(left) => {
                    let (length, left) = part_of(rest, left);
                    self.part = if left == 0 { HEAD } else { Part::Body(left) };
                    taken += length;
                }
                Part::Chunk(left) => {
                    let (length, left) = part_of(rest, left);
                    self.part = if left == 0 { Part::ChunkEnd } else { Part::Chunk(left) };
                    taken += length;
                }
                _ => {
                    let Some(end) = memchr(b'\n', rest) else {
                        self.line.extend(rest);
                        return Taken { length: bytes.len(), refused: None };
                    };
                    self.line.extend(&rest[..end]);
                    taken += end;
                    let line = mem::take(&mut self.line);
                    match self.next(&line) {
                        Ok(part) => self.part = part,
                        Err(reason) => {
                            self.part = Part::Refused;
                            return Taken { length: taken, refused: Some(reason) };
                        }
                    }
                    taken += 1;
                }
            }
        }
        Taken { length: taken, refused: None }
    }

    /// What comes after `line`.
    fn next(&self, line: &Line) -> Result<Part, &'static str> {
        if line.length == 0 || line.last != b'\r' {
            return Err("a line ends with LF alone");
        }
        let empty = line.length == 1;
        match self.part {
            Part::Head { begun: true, .. } if empty => Ok(Part::Unknown),
            // Some old clients send one after a body (RFC 9112 section 2.2).
            Part::Head { padded: false, framed, .. } if empty => {
                Ok(Part::Head { begun: false, framed, padded: true })
            }
            Part::Head { begun: false, .. } if empty => Err("more than one empty line before a request"),
            Part::Head { framed: true, .. } if line.frames() => {
                Err("more than one Content-Length or Transfer-Encoding")
            }
            Part::Head { framed, padded, .. } => {
                Ok(Part::Head { begun: true, framed: framed || line.frames(), padded })
            }
            Part::ChunkSize => match line.chunk_size() {
                Some(0) => Ok(Part::Trailers),
                Some(size) => Ok(Part::Chunk(size)),
                None => Err("a chunk's size is malformed"),
            },
            Part::ChunkEnd if empty => Ok(Part::ChunkSize),
            Part::ChunkEnd => Err("a chunk is longer than its size"),
            Part::Trailers if empty => Ok(HEAD),
            Part::Trailers if line.frames() || line.names("host") => {
                Err("a trailer that belongs into the head")
            }
            part => Ok(part),
        }
    }
}

/// How much of `bytes` belongs to what has `left` to come, and how much that then is.
fn part_of(bytes: &[u8], left: u64) -> (usize, u64) {
    let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (length, left - length as u64)
}

impl Line {
    fn extend(&mut self, piece: &[u8]) {
        let room = &mut self.start[self.length.min(START)..];
        let length = room.len().min(piece.len());
        room[..length].copy_from_slice(&piece[..length]);
        self.length += piece.len();
        if let Some(last) = piece.last() {
            self.last = *last;
        }
    }

    fn start(&self) -> &[u8] {
        &self.start[..self.length.min(START)]
    }

    fn names(&self, field: &str) -> bool {
        let start = self.start();
        start.get(field.len()) == Some(&b':') && start[..field.len()].eq_ignore_ascii_case(field.as_bytes())
    }

    /// Whether it says how long the body is.
    fn frames(&self) -> bool {
        match self.start[0] {
            b'c' | b'C' => self.names("content-length"),
            b't' | b'T' => self.names("transfer-encoding"),
            _ => false,
        }
    }

    /// `None` unless it is one to sixteen hexadecimal digits, followed by the line's end or an extension.
    fn chunk_size(&self) -> Option<u64> {
        let start = self.start();
        let digits = start.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let followed_well = match start.get(digits)? {
            b'\r' => self.length == digits + 1,
            byte => *byte == b';',
        };
        if digits > SIZE_DIGITS || !followed_well {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(&start[..digits]).ok()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Feeds `bytes` in pieces of `size`; how many are good, and why the next isn't.
    fn feed(framing: &mut Framing, bytes: &[u8], size: usize) -> Taken {
        let mut length = 0;
        for piece in bytes.chunks(size) {
            let taken = framing.take(piece);
            length += taken.length;
            if taken.refused.is_some() || taken.length < piece.len() {
                return Taken { length, ..taken };
            }
        }
        Taken { length, refused: None }
    }

    fn refused(bytes: &[u8]) -> Option<&'static str> {
        let all: Vec<_> = (1..bytes.len()).map(|size| feed(&mut Framing::http1(), bytes, size)).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all[0].refused
    }

    #[test]
    fn a_head_is_given_apart_from_what_follows_it() {
        for size in 1..2 * GET.len() {
            let mut framing = Framing::http1();
            let both = [GET, GET].concat();
            assert_eq!(feed(&mut framing, &both, size), Taken { length: GET.len(), refused: None });
            framing.follows(Body::Length(0));
            assert_eq!(feed(&mut framing, GET, size).length, GET.len());
        }
    }

    #[test]
    fn a_body_is_any_bytes_until_its_end() {
        let mut framing = Framing::http1();
        framing.take(GET);
        framing.follows(Body::Length(6));
        let taken = framing.take(b"\n\n\0\n\n\nGET / HTTP/1.1\n");
        assert_eq!(taken, Taken { length: 6 + 14, refused: Some("a line ends with LF alone") });
    }

    #[test]
    fn chunks_are_followed_to_the_next_head() {
        let chunks = b"A;x=y\r\n\n123456789\r\n00\r\nX: y\r\n\r\n";
        for size in 1..chunks.len() {
            let mut framing = Framing::http1();
            framing.take(GET);
            framing.follows(Body::Chunked);
            assert_eq!(feed(&mut framing, chunks, size).length, chunks.len());
            assert_eq!(framing.part, HEAD);
        }
        for bad in
            ["\r\n", "g\r\n", "1 \r\n", "+1\r\n", "0x1\r\n", "00000000000000001\r\n", "1\n", "1\r\nxy\r\n"]
        {
            let mut framing = Framing::http1();
            framing.take(GET);
            framing.follows(Body::Chunked);
            assert!(framing.take(bad.as_bytes()).refused.is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_body_s_length_is_said_once() {
        let twice = Some("more than one Content-Length or Transfer-Encoding");
        assert_eq!(refused(b"P / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n"), twice);
        assert_eq!(
            refused(b"P / HTTP/1.1\r\nTransfer-Encoding: x\r\nA: b\r\nContent-Length: 1\r\n\r\n"),
            twice
        );
        assert_eq!(refused(b"P / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length-X: 1\r\n\r\n"), None);
    }

    #[test]
    fn behind_an_upgrade_nothing_is_judged_before_it_is_decided() {
        let mut framing = Framing::http1();
        framing.take(GET);
        framing.follows(Body::Open);
        assert_eq!(framing.take(b"\n\n"), Taken { length: 0, refused: None });
        framing.stays_http();
        assert_eq!(framing.take(GET).length, GET.len());
    }

    #[test]
    fn one_empty_line_may_come_before_a_request() {
        assert_eq!(refused(&[b"\r\n", GET].concat()), None);
        assert!(refused(&[b"\r\n\r\n", GET].concat()).is_some());
        assert!(refused(&[b"\n", GET].concat()).is_some());
    }
}
