//! A field of a header section, as the tables keep it.

#![forbid(unsafe_code)]

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::ENTRY;

/// A field. A copy shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Field {
    Pseudo(Pseudo, Bytes),
    Header(HeaderName, HeaderValue),
    /// Not one that there may be (RFC 9113 section 8.2.1), by the lengths of name and value. A table holds it nevertheless.
    Malformed(usize, usize),
}

/// A pseudo-header field (RFC 9113 section 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

/// A field's name.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Pseudo(Pseudo),
    Header(HeaderName),
    /// Of this length.
    Malformed(usize),
}

impl Pseudo {
    fn name(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
        }
    }
}

impl Name {
    /// Names are in lower case.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let pseudo = match bytes {
            b":method" => Pseudo::Method,
            b":scheme" => Pseudo::Scheme,
            b":authority" => Pseudo::Authority,
            b":path" => Pseudo::Path,
            b":protocol" => Pseudo::Protocol,
            b":status" => Pseudo::Status,
            _ => {
                return HeaderName::from_lowercase(bytes).map_or(Self::Malformed(bytes.len()), Self::Header);
            }
        };
        Self::Pseudo(pseudo)
    }

    pub(super) fn with(self, value: Bytes) -> Field {
        match self {
            Self::Pseudo(pseudo) => Field::Pseudo(pseudo, value),
            Self::Malformed(length) => Field::Malformed(length, value.len()),
            Self::Header(name) => {
                let lengths = (name.as_str().len(), value.len());
                match HeaderValue::from_maybe_shared(value) {
                    Ok(value) => Field::Header(name, value),
                    Err(_) => Field::Malformed(lengths.0, lengths.1),
                }
            }
        }
    }
}

impl Field {
    pub(super) fn header(name: HeaderName, value: &'static str) -> Self {
        Self::Header(name, HeaderValue::from_static(value))
    }

    pub(super) fn pseudo(pseudo: Pseudo, value: &'static str) -> Self {
        Self::Pseudo(pseudo, Bytes::from_static(value.as_bytes()))
    }

    /// What it counts for in a table, and in a header list (RFC 9113 section 6.5.2).
    pub(in super::super) fn size(&self) -> usize {
        match self {
            Self::Pseudo(pseudo, value) => pseudo.name().len() + value.len() + ENTRY,
            Self::Header(name, value) => name.as_str().len() + value.len() + ENTRY,
            Self::Malformed(name, value) => name + value + ENTRY,
        }
    }

    /// Its name alone, for another value.
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Pseudo(pseudo, _) => Name::Pseudo(*pseudo),
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Malformed(name, _) => Name::Malformed(*name),
        }
    }
}
