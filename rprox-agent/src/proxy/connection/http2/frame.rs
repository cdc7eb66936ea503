//! Frames (RFC 9113 section 4).

#![forbid(unsafe_code)]

use h2::Reason;

/// The size of a frame's head.
pub(super) const HEAD: usize = 9;

/// What a frame's payload may have unless the receiver's settings say otherwise.
pub(super) const PAYLOAD: usize = 16_384;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
/// Of `SETTINGS` and `PING`.
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

/// What comes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0: the connection's.
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn read(bytes: &[u8; HEAD]) -> Self {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *bytes;
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        Self { length, kind, flags, stream: number([s1, s2, s3, s4]) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a frame's length has 24 bits")]
    pub(super) fn write(self, into: &mut Vec<u8>) {
        let [_, l1, l2, l3] = (self.length as u32).to_be_bytes();
        let [s1, s2, s3, s4] = self.stream.to_be_bytes();
        into.extend_from_slice(&[l1, l2, l3, self.kind, self.flags, s1, s2, s3, s4]);
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Thirty-one bits; the one before them is reserved.
pub(super) fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

pub(super) fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], into: &mut Vec<u8>) {
    Head { length: payload.len(), kind, flags, stream }.write(into);
    into.extend_from_slice(payload);
}

/// What `payload` has besides its padding, if `head` says that there is some.
pub(super) fn without_padding(head: Head, payload: &[u8]) -> Result<&[u8], Fault> {
    if !head.has(PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
    let length = rest.len().checked_sub(padding.into()).ok_or(Fault::Connection(Reason::PROTOCOL_ERROR))?;
    Ok(&rest[..length])
}

/// What a client must not do (RFC 9113 section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It costs the stream.
    Stream(u32, Reason),
    /// It costs the connection.
    Connection(Reason),
    /// Frames that only make work, and too many of them.
    Flood,
}
