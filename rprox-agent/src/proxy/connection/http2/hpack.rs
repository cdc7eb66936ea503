//! Header compression (RFC 7541).

#![forbid(unsafe_code)]

pub(super) mod decoder;
pub(super) mod encoder;
mod field;
mod huffman;
mod integer;
mod static_table;

pub(super) use self::decoder::Decoder;
pub(super) use self::encoder::Encoder;
pub(super) use self::field::{Field, Pseudo};

/// What a table may hold unless the other side's settings say otherwise (RFC 9113 section 6.5.2).
const TABLE_SIZE: usize = 4096;

/// What an entry counts for besides its name and value (RFC 7541 section 4.1).
const ENTRY: usize = 32;

#[cfg(test)]
mod tests;
