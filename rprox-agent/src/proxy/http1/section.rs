//! Where a header section ends.

#![forbid(unsafe_code)]

use memchr::memchr_iter;

/// Where the header section ends that `bytes` begin with, if it has come whole. None ends before `from`. A line may end with LF alone
/// (RFC 9112 section 2.2).
#[must_use]
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    // The line before the empty one may have ended in what was looked at before.
    let from = from.saturating_sub(2);
    memchr_iter(b'\n', &bytes[from..]).find_map(|at| match &bytes[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// Looks for the end of a head whose every line has to end with CR LF, piece by piece.
///
/// RFC 9112 lets a recipient take a lone LF for a line's end. Whoever stands before us may not, and see one message where we would
/// see two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strict {
    /// So much has been looked at.
    looked_at: usize,
    /// Where the line begins that was not ended there.
    line: usize,
    /// Where the head begins: behind an empty line, if there is one.
    start: usize,
}

impl Strict {
    /// Where the head lies in `bytes`, which begin as they did the last time; `None` while it has not come whole.
    ///
    /// # Errors
    ///
    /// When it is no head, for this reason.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
        for at in memchr_iter(b'\n', &bytes[self.looked_at..]) {
            let at = self.looked_at + at;
            let line = &bytes[self.line..at];
            if line.last() != Some(&b'\r') {
                return Err("a line ends with LF alone");
            }
            if line.len() == 1 {
                if self.line > self.start {
                    return Ok(Some((self.start, at + 1)));
                }
                // Some old clients send one after a body (RFC 9112 section 2.2).
                if self.start > 0 {
                    return Err("more than one empty line before a request");
                }
                self.start = at + 1;
            }
            self.line = at + 1;
        }
        self.looked_at = bytes.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_with_its_empty_line_wherever_one_looks_from() {
        for (bytes, expected) in [
            (&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n"[..], Some(25)),
            (b"HTTP/1.1 200 OK\n\nbody", Some(17)),
            (b"HTTP/1.1 200 OK\n\r\nbody", Some(18)),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\r", None),
            (b"", None),
        ] {
            assert_eq!(end(bytes, 0), expected);
            for cut in 0..expected.unwrap_or(bytes.len()) {
                assert_eq!(end(&bytes[..cut], 0), None);
                assert_eq!(end(bytes, cut), expected, "from {cut}");
            }
        }
    }

    #[test]
    fn a_strict_head_is_found_however_it_is_cut() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nA: b\r\n\r\nbody"[..], Ok(Some((0, 24)))),
            (b"\r\nGET / HTTP/1.1\r\n\r\nbody", Ok(Some((2, 20)))),
            (b"GET / HTTP/1.1\r\nA: b\r\n\r", Ok(None)),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", Err("a line ends with LF alone")),
            (b"\nGET / HTTP/1.1\r\n\r\n", Err("a line ends with LF alone")),
            (b"GET / HTTP/1.1\r\n\n", Err("a line ends with LF alone")),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Err("more than one empty line before a request")),
        ] {
            for size in 1..=bytes.len() {
                let mut strict = Strict::default();
                let cuts = (size..bytes.len()).step_by(size).chain([bytes.len()]);
                let mut found = cuts.map(|cut| strict.find(&bytes[..cut]));
                assert_eq!(found.find(|found| *found != Ok(None)).unwrap_or(Ok(None)), expected, "{size}");
            }
        }
    }
}
