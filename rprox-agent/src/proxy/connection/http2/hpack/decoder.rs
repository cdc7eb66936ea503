//! Header blocks into fields.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;

use super::field::{Field, Name};
use super::{TABLE_SIZE, huffman, integer, static_table};

/// A block that can't be decoded. No other of its connection can be then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Broken;

/// Decodes the blocks of a connection, in their order.
#[derive(Debug)]
pub(in super::super) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    /// What the table may hold, as the other side says.
    limit: usize,
}

impl Decoder {
    pub(in super::super) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: TABLE_SIZE }
    }

    /// Gives each field of `block` to `take`, until that says false: then what is left is not decoded.
    pub(in super::super) fn decode(
        &mut self,
        mut block: &[u8],
        mut take: impl FnMut(&Field) -> bool,
    ) -> Result<(), Broken> {
        let mut is_beginning = true;
        while let Some(&first) = block.first() {
            let goes_on = if first & 0x80 != 0 {
                let number = integer::read(&mut block, 7)?;
                take(self.entry(number)?)
            } else if first & 0xe0 == 0x20 {
                let limit = integer::read(&mut block, 5)?;
                if !is_beginning || limit > TABLE_SIZE {
                    return Err(Broken);
                }
                self.limit = limit;
                self.evict(0);
                continue;
            } else {
                let is_kept = first & 0x40 != 0;
                let field = self.literal(&mut block, if is_kept { 6 } else { 4 })?;
                let goes_on = take(&field);
                if is_kept {
                    self.keep(field);
                }
                goes_on
            };
            is_beginning = false;
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    fn entry(&self, number: usize) -> Result<&Field, Broken> {
        let place = number.checked_sub(1).ok_or(Broken)?;
        let added = || self.table.get(place - static_table::LENGTH);
        static_table::FIELDS.get(place).or_else(added).ok_or(Broken)
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Result<Field, Broken> {
        let name = match integer::read(block, bits)? {
            0 => Name::read(&string(block)?),
            number => self.entry(number)?.name(),
        };
        Ok(name.with(string(block)?))
    }

    fn keep(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.limit {
            self.size += size;
            self.table.push_front(field);
        }
    }

    /// Makes room for an entry of `size` (RFC 7541 section 4.4).
    fn evict(&mut self, size: usize) {
        while self.size + size > self.limit
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

fn string(block: &mut &[u8]) -> Result<Bytes, Broken> {
    let is_huffman = block.first().ok_or(Broken)? & 0x80 != 0;
    let length = integer::read(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Broken)?;
    *block = rest;
    if !is_huffman {
        return Ok(Bytes::copy_from_slice(string));
    }
    // Codes have five bits at least.
    let mut decoded = Vec::with_capacity(length * 8 / 5);
    huffman::decode(string, &mut decoded)?;
    Ok(decoded.into())
}
