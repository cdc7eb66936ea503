//! What the client sends, frame by frame.

#![forbid(unsafe_code)]

use std::sync::Arc;

use h2::Reason;
use http::{HeaderMap, StatusCode, request};

use super::frame::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fault, GOAWAY, HEADERS, Head, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY,
};
use super::hpack::Decoder;
use super::section::Section;
use super::settings::settings;
use super::streams::{Known, Streams};
use crate::proxy::config::Limits;
use crate::proxy::forward::headers;
use crate::proxy::metrics::{Limit, Metrics};

/// How many frames without anything in them are taken in a row.
const EMPTY_FRAMES: u32 = 100;

/// How many streams are reset for the client's faults: each may have cost an upstream a request (CVE-2025-8671).
const FAULTS: u32 = 1000;

/// How many frames a header block may be in besides those that the limit on its size makes necessary.
const CONTINUATIONS: usize = 8;

/// What a frame is to the connection as a whole.
#[derive(Debug)]
pub(super) enum Event {
    Nothing,
    /// A request begins; the second: nothing comes behind its head.
    Request(u32, Box<request::Parts>, bool),
    /// What we have sent has arrived, and all that came before it.
    Pong,
    /// The client begins nothing more.
    GoAway,
}

/// Reads the frames of a client.
pub(super) struct Receive {
    decoder: Decoder,
    /// A header block whose end has not come.
    block: Option<Block>,
    metrics: Arc<Metrics>,
    header_bytes: usize,
    streams: usize,
    /// Streams beyond are not for us; they are what the client began before it heard that.
    pub(super) last: u32,
    empty_frames: u32,
    faults: u32,
}

struct Block {
    head: Head,
    bytes: Vec<u8>,
    frames: usize,
}

impl Receive {
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            decoder: Decoder::new(),
            block: None,
            metrics,
            header_bytes: limits.header_bytes,
            streams: usize::try_from(limits.streams).unwrap_or(usize::MAX),
            last: u32::MAX,
            empty_frames: 0,
            faults: 0,
        }
    }

    /// Takes the next frame.
    pub(super) fn take(&mut self, streams: &mut Streams, head: Head, payload: &[u8]) -> Result<Event, Fault> {
        if self.block.is_some() && head.kind != CONTINUATION {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        let is_begun = matches!(head.kind, DATA | HEADERS | CONTINUATION);
        if head.stream > self.last && !is_begun {
            return Ok(Event::Nothing);
        }
        match head.kind {
            DATA => self.data(streams, head, payload)?,
            HEADERS => return self.headers(streams, head, payload),
            CONTINUATION => return self.continuation(streams, head, payload),
            PRIORITY => priority(streams, head)?,
            RST_STREAM => rst_stream(streams, head, payload)?,
            SETTINGS => settings(streams, head, payload)?,
            PING => return ping(streams, head, payload),
            GOAWAY => return goaway(head),
            WINDOW_UPDATE => window_update(streams, head, payload)?,
            PUSH_PROMISE => return Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
            // RFC 9113 section 5.5.
            _ => {}
        }
        Ok(Event::Nothing)
    }

    /// Resets a stream for what the client does, which it may do so often.
    pub(super) fn fault(&mut self, streams: &mut Streams, id: u32, reason: Reason) -> Result<(), Fault> {
        self.faults += 1;
        if self.faults > FAULTS {
            return Err(Fault::Flood);
        }
        streams.refuse(id, reason);
        streams.was_reset(id, reason);
        Ok(())
    }

    fn data(&mut self, streams: &mut Streams, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let Head { stream: id, length, .. } = head;
        let size = u32::try_from(length).unwrap_or(u32::MAX);
        let is_last = head.has(END_STREAM);
        let known = streams.known(id);
        if known == Known::Idle && id <= self.last {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        if !streams.has_come(size) {
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let data = frame::without_padding(head, payload)?;
        if data.is_empty() && !is_last {
            // CVE-2019-9518.
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES {
                return Err(Fault::Flood);
            }
        } else {
            self.empty_frames = 0;
        }
        match known {
            Known::Open => match streams.take_data(id, data, size, is_last) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR)),
                Err(error) => Err(Fault::Stream(id, error.0)),
            },
            Known::Idle | Known::Reset => {
                streams.gives_back(length);
                Ok(())
            }
            Known::HalfClosed | Known::Closed => {
                streams.gives_back(length);
                Err(Fault::Stream(id, Reason::STREAM_CLOSED))
            }
        }
    }

    fn headers(&mut self, streams: &mut Streams, head: Head, payload: &[u8]) -> Result<Event, Fault> {
        // A client's streams have odd numbers (RFC 9113 section 5.1.1).
        if head.stream.is_multiple_of(2) {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        }
        let mut fragment = frame::without_padding(head, payload)?;
        if head.has(WITH_PRIORITY) {
            fragment = fragment.get(5..).ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
        }
        if head.has(END_HEADERS) {
            return self.block(streams, head, fragment);
        }
        self.block = Some(Block { head, bytes: fragment.to_vec(), frames: 1 });
        Ok(Event::Nothing)
    }

    fn continuation(&mut self, streams: &mut Streams, head: Head, payload: &[u8]) -> Result<Event, Fault> {
        let Some(mut block) = self.block.take().filter(|block| block.head.stream == head.stream) else {
            return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
        };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        // CVE-2024-27316. Decoded it is hardly ever smaller.
        let most = self.header_bytes.saturating_mul(2).max(2 * frame::PAYLOAD);
        if block.bytes.len() > most || block.frames > most / frame::PAYLOAD + CONTINUATIONS {
            return Err(Fault::Flood);
        }
        if head.has(END_HEADERS) {
            return self.block(streams, block.head, &block.bytes);
        }
        self.block = Some(block);
        Ok(Event::Nothing)
    }

    /// A whole header block.
    fn block(&mut self, streams: &mut Streams, head: Head, block: &[u8]) -> Result<Event, Fault> {
        let id = head.stream;
        let mut section = Section::new(self.header_bytes);
        let decoded = self.decoder.decode(block, |field| section.take(field));
        decoded.map_err(|_| Fault::Connection(Reason::COMPRESSION_ERROR))?;
        if section.is_far_too_large() {
            return Err(Fault::Flood);
        }
        self.empty_frames = 0;
        match streams.known(id) {
            Known::Idle if id > self.last => Ok(Event::Nothing),
            Known::Idle => self.request(streams, head, section),
            Known::Open => self.trailers(streams, head, section).map(|()| Event::Nothing),
            Known::Reset => Ok(Event::Nothing),
            Known::HalfClosed | Known::Closed => Err(Fault::Connection(Reason::STREAM_CLOSED)),
        }
    }

    fn request(&mut self, streams: &mut Streams, head: Head, section: Section) -> Result<Event, Fault> {
        let (id, is_whole) = (head.stream, head.has(END_STREAM));
        streams.names(id);
        if section.is_too_large {
            self.metrics.limit_hits[Limit::Headers].increment();
            streams.begin(id, None, is_whole);
            let status = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            let _ = streams.send_section(id, status, &HeaderMap::new(), true);
            streams.drop_sender(id);
            streams.drop_receiver(id);
            return Ok(Event::Nothing);
        }
        // Those that the client has reset are its no more, but ours until they are done with.
        if streams.open() >= self.streams || streams.len() >= self.streams.saturating_mul(2) {
            self.metrics.limit_hits[Limit::Streams].increment();
            streams.refuse(id, Reason::REFUSED_STREAM);
            return Ok(Event::Nothing);
        }
        let Ok(parts) = section.into_request() else {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        };
        let length = headers::content_length(&parts.headers);
        if is_whole && length.is_some_and(|length| length > 0) {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        streams.begin(id, length, is_whole);
        Ok(Event::Request(id, Box::new(parts), is_whole))
    }

    fn trailers(&self, streams: &mut Streams, head: Head, section: Section) -> Result<(), Fault> {
        let fault = |reason| Err(Fault::Stream(head.stream, reason));
        if section.is_too_large {
            self.metrics.limit_hits[Limit::Headers].increment();
            return fault(Reason::ENHANCE_YOUR_CALM);
        }
        match section.into_trailers() {
            Ok(trailers) if head.has(END_STREAM) => {
                streams.take_trailers(head.stream, trailers).or_else(|error| fault(error.0))
            }
            _ => fault(Reason::PROTOCOL_ERROR),
        }
    }
}

fn priority(streams: &Streams, head: Head) -> Result<(), Fault> {
    match (head.stream, head.length) {
        (0, _) => Err(Fault::Connection(Reason::PROTOCOL_ERROR)),
        (_, 5) => Ok(()),
        (id, _) if streams.known(id) == Known::Idle => Err(Fault::Connection(Reason::FRAME_SIZE_ERROR)),
        (id, _) => Err(Fault::Stream(id, Reason::FRAME_SIZE_ERROR)),
    }
}

fn rst_stream(streams: &mut Streams, head: Head, payload: &[u8]) -> Result<(), Fault> {
    let code = four(payload)?;
    if streams.known(head.stream) == Known::Idle {
        return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
    }
    streams.was_reset(head.stream, u32::from_be_bytes(code).into());
    Ok(())
}

fn ping(streams: &mut Streams, head: Head, payload: &[u8]) -> Result<Event, Fault> {
    if head.stream != 0 {
        return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
    }
    if payload.len() != 8 {
        return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
    }
    if head.has(ACK) {
        return Ok(if payload == FAREWELL { Event::Pong } else { Event::Nothing });
    }
    streams.write(PING, ACK, 0, payload);
    Ok(Event::Nothing)
}

/// By its answer it is known that the client has heard of the end.
pub(super) const FAREWELL: &[u8; 8] = b"farewell";

fn goaway(head: Head) -> Result<Event, Fault> {
    if head.stream != 0 {
        return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
    }
    if head.length < 8 { Err(Fault::Connection(Reason::FRAME_SIZE_ERROR)) } else { Ok(Event::GoAway) }
}

fn window_update(streams: &mut Streams, head: Head, payload: &[u8]) -> Result<(), Fault> {
    let more = frame::number(four(payload)?);
    let is_idle = head.stream != 0 && streams.known(head.stream) == Known::Idle;
    if more == 0 || is_idle {
        return Err(Fault::Connection(Reason::PROTOCOL_ERROR));
    }
    if head.stream == 0 {
        let is_good = streams.widen(more);
        return if is_good { Ok(()) } else { Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR)) };
    }
    let is_good = streams.widen_stream(head.stream, more);
    if is_good { Ok(()) } else { Err(Fault::Stream(head.stream, Reason::FLOW_CONTROL_ERROR)) }
}

fn four(payload: &[u8]) -> Result<[u8; 4], Fault> {
    payload.try_into().map_err(|_| Fault::Connection(Reason::FRAME_SIZE_ERROR))
}
