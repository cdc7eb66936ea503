//! The chunked transfer coding (RFC 9112 section 7.1), taken off a response.

#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::error::Error;
use super::head;

/// More digits than a size needs (RFC 9112 section 7.1 wants integers that overflow to be expected).
const SIZE_DIGITS: usize = 16;

/// How long a size with its extensions may be.
const LINE: usize = 4096;

/// How long all extensions of a body may be together: a body is not to be made of them.
const EXTENSIONS: usize = 16 * 1024;

/// Where in the chunks of a body its reader is.
#[derive(Debug)]
pub(super) struct Chunks {
    part: Part,
    /// How many bytes of extensions may still come.
    extensions: usize,
    /// How many bytes trailers may have.
    trailers: usize,
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
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes are needed to tell.
    More,
    End,
}

impl Chunks {
    /// Before the first chunk; trailers may have `trailers` bytes.
    pub(super) fn new(trailers: usize) -> Self {
        Self { part: Part::Size, extensions: EXTENSIONS, trailers }
    }

    pub(super) fn is_end(&self) -> bool {
        self.part == Part::End
    }

    /// Takes the next piece of the body out of `buffer`.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Error> {
        loop {
            self.part = match self.part {
                Part::End => return Ok(Piece::End),
                Part::Size => {
                    let Some(end) = memchr(b'\n', buffer) else {
                        let fits = buffer.len() <= LINE;
                        return if fits { Ok(Piece::More) } else { Err(SIZE) };
                    };
                    let line = buffer.split_to(end + 1);
                    let (size, extensions) = size(&line[..end])?;
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
                        let trailers = head::read_trailers(&section)?;
                        return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                    }
                    None if buffer.len() < self.trailers => {
                        self.part = Part::Trailers(buffer.len());
                        return Ok(Piece::More);
                    }
                    _ => return Err(Error::TooLarge),
                },
            }
        }
    }

    /// Passes what ends a chunk, and the last one's size with it, if they are there: then the body's end is known with its last bytes.
    fn pass_end(&mut self, buffer: &mut BytesMut) -> Result<(), Error> {
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
            _ => Err(Error::Malformed("a chunk is longer than its size")),
        }
    }
}

/// Where the trailer section ends that `bytes` begin with, its empty line with it.
fn end_of_trailers(bytes: &[u8], looked_at: usize) -> Option<usize> {
    if bytes.starts_with(b"\r\n") { Some(2) } else { head::end(bytes, looked_at) }
}

const SIZE: Error = Error::Malformed("a chunk's size");

/// The size that a line is, which has lost its LF, and the length of what is behind it.
fn size(line: &[u8]) -> Result<(u64, usize), Error> {
    let line = line.strip_suffix(b"\r").ok_or(SIZE)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let behind = &line[digits..];
    let padding = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
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

    /// What comes of `bytes` that arrive in pieces of `size`: the body, its trailers, and what is left.
    fn read(bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Error> {
        let (mut chunks, mut buffer) = (Chunks::new(100), BytesMut::new());
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
        if chunks.is_end() { Ok((body, trailers, buffer.to_vec())) } else { Err(Error::Closed) }
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
        let (mut chunks, mut buffer) = (Chunks::new(100), BytesMut::from(&b"2\r\nok\r\n0\r\n\r\n"[..]));
        assert_eq!(chunks.next(&mut buffer).unwrap(), Piece::Data(Bytes::from_static(b"ok")));
        assert!(chunks.is_end() && buffer.is_empty());
    }

    #[test]
    fn a_size_is_one_that_all_read_in_one_way() {
        for good in ["1\r\nx", "a;b\r\nx", "0000000000000001\r\nx"] {
            assert!(matches!(read(good.as_bytes(), 1), Err(Error::Closed)), "{good:?}");
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
            assert!(matches!(read(bad.as_bytes(), 1), Err(Error::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_is_beside_the_body_has_its_limit() {
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(100));
        assert!(matches!(read(long.as_bytes(), 10), Err(Error::TooLarge)));
        let extended = format!("1;{}\r\nx\r\n", "y".repeat(4000)).repeat(5);
        assert!(matches!(read(extended.as_bytes(), 100), Err(Error::Malformed(_))));
        let endless = format!("1;{}", "y".repeat(LINE + 1));
        assert!(matches!(read(endless.as_bytes(), 100), Err(Error::Malformed(_))));
    }
}
