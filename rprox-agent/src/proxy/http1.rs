//! HTTP/1.1 on the wire (RFC 9112), as far as a client's connection and an upstream's have it in common.

#![forbid(unsafe_code)]

pub mod bulk;
pub mod chunks;
pub mod fields;
pub mod message;
pub mod persistence;
pub mod rest;
pub mod rooms;
pub mod section;
pub mod trailers;

/// What is wrong with what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is no HTTP, or not so that all would read it in one way.
    #[error("{0}")]
    Malformed(&'static str),
    /// A head or trailers are too large.
    #[error("a header section larger than limits.header_bytes, or of too many fields")]
    TooLarge,
}
