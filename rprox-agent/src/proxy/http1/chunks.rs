//! The chunked transfer coding (RFC 9112 section 7.1), taken off a body.

#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use hyper::body::Frame;
use memchr::{memchr, memchr_iter};

use super::{Flaw, fields, section};

/// More digits than a size needs (RFC 9112 section 7.1 wants integers that overflow to be expected).
const SIZE_DIGITS: usize = 16;

/// How long a size with its extensions may be.
const LINE: usize = 4096;

/// How long all extensions of a body may be together: a body is not to be made of them.
const EXTENSIONS: usize = 16 * 1024;

/// Where in the chunks of a body its reader is.
#[derive(Debug)]
pub struct Chunks {
    part: Part,
    sender: Sender,
    /// How many bytes of extensions may still come.
    extensions: usize,
    /// How many bytes trailers may have.
    trailers: usize,
}

/// Who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client: whoever stands between it and us may read otherwise what is not as the RFC has it to the letter.
    Client,
    /// An upstream: some pad the sizes or end a line with LF alone, which only the one who asked reads.
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Size,
    Data(u64),
    /// The end of a chunk's last line.
    DataEnd,
    /// So much of them has been looked at.
    Trailers(usize),
    End,
}

/// What comes of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// What comes behind it, and is its end.
    Trailers(HeaderMap),
    /// More bytes are needed to tell.
    More,
    /// It has ended.
    End,
}

impl Piece {
    /// What it is for whoever takes the body; `None` where there is nothing to take.
    #[must_use]
    pub fn into_frame(self) -> Option<Frame<Bytes>> {
        match self {
            Self::Data(data) => Some(Frame::data(data)),
            Self::Trailers(trailers) => Some(Frame::trailers(trailers)),
            Self::More | Self::End => None,
        }
    }
}

impl Chunks {
    /// Before the first chunk; trailers may have `trailers` bytes.
    #[must_use]
    pub fn new(sender: Sender, trailers: usize) -> Self {
        Self { part: Part::Size, sender, extensions: EXTENSIONS, trailers }
    }

    /// Whether all of it has been taken.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.part == Part::End
    }

    /// Takes the next piece of the body out of `buffer`.
    ///
    /// # Errors
    ///
    /// When it is malformed, or what is beside the data is too long.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Flaw> {
        loop {
            self.part = match self.part {
                Part::End => return Ok(Piece::End),
                Part::Size => {
                    let Some(end) = memchr(b'\n', buffer) else {
                        let fits = buffer.len() <= LINE;
                        return if fits { Ok(Piece::More) } else { Err(SIZE) };
                    };
                    let line = buffer.split_to(end + 1);
                    let (size, extensions) = size(&line[..end], self.sender)?;
                    self.extensions = self.extensions.checked_sub(extensions).ok_or(SIZE)?;
                    if size == 0 { Part::Trailers(0) } else { Part::Data(size) }
                }
                Part::Data(_) if buffer.is_empty() => return Ok(Piece::More),
                Part::Data(left) => {
                    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let left = left - length as u64;
                    let data = buffer.split_to(length).freeze();
                    self.part = if left == 0 { Part::DataEnd } else { Part::Data(left) };
                    self.pass_end(buffer)?;
                    return Ok(Piece::Data(data));
                }
                Part::DataEnd => {
                    self.pass_end(buffer)?;
                    if self.part == Part::DataEnd {
                        return Ok(Piece::More);
                    }
                    self.part
                }
                Part::Trailers(looked_at) => match end_of_trailers(buffer, looked_at) {
                    Some(end) if end <= self.trailers => {
                        let section = buffer.split_to(end).freeze();
                        self.part = Part::End;
                        let trailers = fields::read_trailers(&section)?;
                        if self.sender == Sender::Client {
                            check_trailers(&section, &trailers)?;
                        }
                        return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                    }
                    None if buffer.len() < self.trailers => {
                        self.part = Part::Trailers(buffer.len());
                        return Ok(Piece::More);
                    }
                    _ => return Err(Flaw::TooLarge),
                },
            }
        }
    }

    /// Passes what ends a chunk, and the last one's size with it, if they are there: then the body's end is known with its last bytes.
    fn pass_end(&mut self, buffer: &mut BytesMut) -> Result<(), Flaw> {
        if self.part != Part::DataEnd {
            return Ok(());
        }
        match &buffer[..] {
            [b'\r', b'\n', rest @ ..] => {
                self.part = Part::Size;
                let passed = if rest.starts_with(b"0\r\n\r\n") {
                    self.part = Part::End;
                    b"\r\n0\r\n\r\n".len()
                } else {
                    b"\r\n".len()
                };
                let _ = buffer.split_to(passed);
                Ok(())
            }
            [] | [b'\r'] => Ok(()),
            _ => Err(Flaw::Malformed("a chunk is longer than its size")),
        }
    }
}

/// Where the trailer section ends that `bytes` begin with, its empty line with it.
fn end_of_trailers(bytes: &[u8], looked_at: usize) -> Option<usize> {
    if bytes.starts_with(b"\r\n") { Some(2) } else { section::end(bytes, looked_at) }
}

/// Whether a client's trailer section can be read in one way alone.
fn check_trailers(section: &[u8], trailers: &HeaderMap) -> Result<(), Flaw> {
    if memchr_iter(b'\n', section).any(|at| at == 0 || section[at - 1] != b'\r') {
        return Err(Flaw::Malformed("a line that ends with LF alone"));
    }
    if [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].iter().any(|name| trailers.contains_key(name)) {
        return Err(Flaw::Malformed("a trailer that belongs into the head"));
    }
    Ok(())
}

const SIZE: Flaw = Flaw::Malformed("a chunk's size");

/// The size that a line is, which has lost its LF, and the length of what is behind it.
fn size(line: &[u8], sender: Sender) -> Result<(u64, usize), Flaw> {
    let line = line.strip_suffix(b"\r").ok_or(SIZE)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let behind = &line[digits..];
    let blanks = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let padding = if sender == Sender::Upstream { blanks } else { 0 };
    let followed_well = matches!(behind.get(padding), None | Some(b';')) && !behind.contains(&b'\r');
    if digits == 0 || digits > SIZE_DIGITS || !followed_well {
        return Err(SIZE);
    }
    let value = line[..digits].iter().fold(0, |value, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        value << 4 | u64::from(digit)
    });
    Ok((value, behind.len()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CUT: Flaw = Flaw::Malformed("cut short");

    /// What comes of `bytes` that arrive in pieces of `size`: the body, its trailers, and what is left.
    fn read(bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Flaw> {
        read_from(Sender::Upstream, bytes, size)
    }

    fn read_from(sender: Sender, bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Flaw> {
        let (mut chunks, mut buffer) = (Chunks::new(sender, 100), BytesMut::new());
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        for piece in bytes.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                match chunks.next(&mut buffer)? {
                    Piece::Data(data) => body.extend(data),
                    Piece::Trailers(found) => trailers = found,
                    Piece::More | Piece::End => break,
                }
            }
        }
        if chunks.is_end() { Ok((body, trailers, buffer.to_vec())) } else { Err(CUT) }
    }

    #[test]
    fn a_body_is_put_together_however_it_is_cut() {
        let whole = b"5\r\nhello\r\n00B \t; x=\"y\"\r\n, is it me?\r\n00\r\nX-Sum: 1\r\n\r\nrest";
        for size in 1..whole.len() {
            let (body, trailers, rest) = read(whole, size).unwrap();
            assert_eq!(body, b"hello, is it me?");
            assert_eq!(trailers.get("x-sum"), Some(&HeaderValue::from_static("1")));
            assert_eq!(rest, b"rest");
        }
    }

    #[test]
    fn the_end_is_known_with_the_last_bytes() {
        let (mut chunks, mut buffer) =
            (Chunks::new(Sender::Client, 100), BytesMut::from(&b"2\r\nok\r\n0\r\n\r\n"[..]));
        assert_eq!(chunks.next(&mut buffer).unwrap(), Piece::Data(Bytes::from_static(b"ok")));
        assert!(chunks.is_end() && buffer.is_empty());
    }

    #[test]
    fn a_size_is_one_that_all_read_in_one_way() {
        for good in ["1\r\nx", "a;b\r\nx", "0000000000000001\r\nx"] {
            assert_eq!(read(good.as_bytes(), 1), Err(CUT), "{good:?}");
            assert_eq!(read_from(Sender::Client, good.as_bytes(), 1), Err(CUT), "{good:?}");
        }
        for bad in [
            "\r\n",
            "g\r\n",
            "+1\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\n",
            "00000000000000001\r\n",
            "1 x\r\n",
            "1;\rx\r\n",
            "1\r\nxy\r\n",
            " 1\r\n",
        ] {
            assert!(matches!(read(bad.as_bytes(), 1), Err(Flaw::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_client_s_are_read_to_the_letter() {
        for only_upstreams in [
            "1 \r\nx\r\n0\r\n\r\n",
            "1 ;a\r\nx\r\n0\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\r\n\n",
            "0\r\nHost: b\r\n\r\n",
        ] {
            let bytes = only_upstreams.as_bytes();
            assert!(read(bytes, 1).is_ok(), "{only_upstreams:?}");
            assert!(
                matches!(read_from(Sender::Client, bytes, 1), Err(Flaw::Malformed(_))),
                "{only_upstreams:?}"
            );
        }
    }

    #[test]
    fn what_is_beside_the_body_has_its_limit() {
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(100));
        assert!(matches!(read(long.as_bytes(), 10), Err(Flaw::TooLarge)));
        let extended = format!("1;{}\r\nx\r\n", "y".repeat(4000)).repeat(5);
        assert!(matches!(read(extended.as_bytes(), 100), Err(Flaw::Malformed(_))));
        let endless = format!("1;{}", "y".repeat(LINE + 1));
        assert!(matches!(read(endless.as_bytes(), 100), Err(Flaw::Malformed(_))));
    }
}
