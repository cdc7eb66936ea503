//! The frames in what is written to a connection, without their payloads.

#![forbid(unsafe_code)]

/// RFC 9113 section 4.1: a length of 24 bits, a type, flags, a stream.
const HEAD: usize = 9;
/// RFC 9113 section 6.4: a stream's reset carries nothing but its reason.
const RST_STREAM: u8 = 3;
const REASON: usize = 4;

/// What is to be known of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Why the stream is reset, where that is what the frame does.
    pub(super) reason: Option<u32>,
}

/// Where one frame ends and the next begins, however the bytes are cut.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What has come of a head, and of the reason behind it.
    head: [u8; HEAD + REASON],
    have: usize,
    /// How much of a payload is still to come.
    payload: usize,
}

impl Frames {
    /// Takes the next bytes, and shows each frame whose head they complete.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        loop {
            let passed = self.payload.min(bytes.len());
            self.payload -= passed;
            bytes = &bytes[passed..];
            if bytes.is_empty() {
                return;
            }
            let more = (self.wanted() - self.have).min(bytes.len());
            self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            self.have += more;
            bytes = &bytes[more..];
            if self.have == self.wanted() {
                each(self.frame());
                self.payload = self.length() - (self.have - HEAD);
                self.have = 0;
            }
        }
    }

    /// How many bytes tell all that is to be known.
    fn wanted(&self) -> usize {
        let is_reset = self.have >= HEAD && self.head[3] == RST_STREAM && self.length() == REASON;
        if is_reset { HEAD + REASON } else { HEAD }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head.map(usize::from);
        a << 16 | b << 8 | c
    }

    fn frame(&self) -> Frame {
        let [.., s1, s2, s3, s4, r1, r2, r3, r4] = self.head;
        Frame {
            kind: self.head[3],
            flags: self.head[4],
            stream: u32::from_be_bytes([s1, s2, s3, s4]),
            reason: (self.have > HEAD).then(|| u32::from_be_bytes([r1, r2, r3, r4])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [
            &[0, 0, 3, 0, 1, 0, 0, 0, 5, b'a', b'b', b'c'][..],
            &[0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 7],
            &[0, 0, 0, 4, 1, 0, 0, 0, 0],
        ]
        .concat();
        let expected = [
            Frame { kind: 0, flags: 1, stream: 5, reason: None },
            Frame { kind: 3, flags: 0, stream: 7, reason: Some(7) },
            Frame { kind: 4, flags: 1, stream: 0, reason: None },
        ];
        for size in 1..=bytes.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.take(piece, |frame| seen.push(frame));
            }
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }
}
