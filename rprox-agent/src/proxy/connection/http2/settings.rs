//! What each end has the other keep to (RFC 9113 section 6.5).

#![forbid(unsafe_code)]

use h2::Reason;

use super::frame::{ACK, Fault, Head, SETTINGS};
use super::streams::{STREAM_WINDOW, Streams};
use crate::proxy::config::Limits;

/// RFC 9113 section 6.5.2, and RFC 8441 section 3.
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Tells the client what it has to keep to.
pub(super) fn introduce(streams: &mut Streams, limits: &Limits) {
    let mut payload = Vec::with_capacity(24);
    for (number, value) in [
        (MAX_CONCURRENT_STREAMS, limits.streams),
        (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (MAX_HEADER_LIST_SIZE, u32::try_from(limits.header_bytes).unwrap_or(u32::MAX)),
        // For WebSockets; the method alone is refused.
        (ENABLE_CONNECT_PROTOCOL, 1),
    ] {
        payload.extend_from_slice(&number.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    streams.write(SETTINGS, 0, 0, &payload);
    streams.open_window();
}

/// Takes the client's.
pub(super) fn settings(streams: &mut Streams, head: Head, payload: &[u8]) -> Result<(), Fault> {
    if head.stream != 0 {
        return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
    }
    if head.has(ACK) {
        let is_good = payload.is_empty();
        return if is_good { Ok(()) } else { Err(Fault::Connection(Reason::FRAME_SIZE_ERROR)) };
    }
    let (settings, rest) = payload.as_chunks::<6>();
    if !rest.is_empty() {
        return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
    }
    for &[n1, n2, v1, v2, v3, v4] in settings {
        let value = u32::from_be_bytes([v1, v2, v3, v4]);
        match u16::from_be_bytes([n1, n2]) {
            HEADER_TABLE_SIZE => streams.set_table_size(value),
            ENABLE_PUSH if value > 1 => return Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
            INITIAL_WINDOW_SIZE if value > 0x7fff_ffff || !streams.set_initial_window(value) => {
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
            }
            MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
            }
            MAX_FRAME_SIZE => streams.set_payload(value),
            _ => {}
        }
    }
    streams.write(SETTINGS, ACK, 0, &[]);
    Ok(())
}
