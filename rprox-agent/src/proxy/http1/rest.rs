//! What is still to come of a body, and how it is taken out of what was read.

#![forbid(unsafe_code)]

use bytes::BytesMut;
use hyper::body::SizeHint;

use super::Flaw;
use super::chunks::{Chunks, Piece};

/// The rest of a body, by how it is told from what follows it (RFC 9112 section 6.3).
#[derive(Debug)]
pub enum Rest {
    /// So many bytes.
    Exact(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All there is until the connection ends.
    UntilClose,
}

impl Rest {
    /// Takes the next piece of the body out of `buffer`.
    ///
    /// # Errors
    ///
    /// As [`Chunks::next`].
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Flaw> {
        Ok(match self {
            Self::Exact(0) => Piece::End,
            Self::Exact(_) | Self::UntilClose if buffer.is_empty() => Piece::More,
            Self::Exact(left) => {
                let length = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                *left -= length as u64;
                Piece::Data(buffer.split_to(length).freeze())
            }
            Self::UntilClose => Piece::Data(buffer.split().freeze()),
            Self::Chunked(chunks) => chunks.next(buffer)?,
        })
    }

    /// So many bytes of it went another way.
    pub fn passes(&mut self, bytes: usize) {
        if let Self::Exact(left) = self {
            *left -= bytes as u64;
        }
    }

    /// Whether all of it has been taken.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Exact(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_end(),
            Self::UntilClose => false,
        }
    }

    /// How long it is, as far as that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Exact(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }
}
