//! Header fields on the wire (RFC 9112 section 5).

#![forbid(unsafe_code)]

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;

use super::Flaw;

/// How many fields a trailer section may have, and a response's head.
pub const FIELDS: usize = 100;

/// Writes a field's line.
pub fn write(name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Writes the line of a body's length.
pub fn write_length(length: u64, into: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    into.extend_from_slice(CONTENT_LENGTH.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(digits.format(length).as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Makes a field of what was read of it in `section`, whose bytes stay where they are.
///
/// # Errors
///
/// When it is none.
pub fn read(section: &Bytes, field: &Header<'_>) -> Result<(HeaderName, HeaderValue), Flaw> {
    let name = HeaderName::from_bytes(field.name.as_bytes());
    let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value));
    match (name, value) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(Flaw::Malformed("a header field")),
    }
}

/// Reads a trailer section, which is whole.
///
/// # Errors
///
/// When it is malformed or has more than [`FIELDS`].
pub fn read_trailers(section: &Bytes) -> Result<HeaderMap, Flaw> {
    let mut space = [httparse::EMPTY_HEADER; FIELDS];
    let (_, fields) = match httparse::parse_headers(section, &mut space) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) => return Err(Flaw::Malformed("trailers that don't end")),
        Err(error) => return Err(error.into()),
    };
    fields.iter().map(|field| read(section, field)).collect()
}

impl From<httparse::Error> for Flaw {
    fn from(error: httparse::Error) -> Self {
        Self::Malformed(match error {
            httparse::Error::TooManyHeaders => return Self::TooLarge,
            httparse::Error::HeaderName => "a header field's name",
            httparse::Error::HeaderValue => "a header field's value",
            httparse::Error::NewLine => "a line's end",
            httparse::Error::Status => "its status",
            httparse::Error::Token => "its first line",
            httparse::Error::Version => "its version",
        })
    }
}
