//! Integers with a prefix (RFC 7541 section 5.1).

#![forbid(unsafe_code)]

use super::decoder::Broken;

/// The most that any is good for.
const MOST: usize = 1 << 28;

/// Reads one from `bytes`, whose first byte has `bits` of it; the other bits are something else's.
pub(super) fn read(bytes: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let mut next = || {
        let (first, rest) = bytes.split_first().ok_or(Broken)?;
        *bytes = rest;
        Ok(*first)
    };
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(next()?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in (0..).step_by(7) {
        let byte = next()?;
        value += usize::from(byte & 0x7f) << shift;
        if value > MOST || shift > 21 {
            return Err(Broken);
        }
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

/// Writes one behind `first`'s other bits.
#[expect(clippy::cast_possible_truncation, reason = "the lowest eight bits are meant")]
pub(super) fn write(mut value: usize, bits: u32, first: u8, into: &mut Vec<u8>) {
    let mask = (1_usize << bits) - 1;
    let low = |value: usize| (value & 0xff) as u8;
    if value < mask {
        into.push(first | low(value));
        return;
    }
    into.push(first | low(mask));
    value -= mask;
    while value >= 0x80 {
        into.push(low(value & 0x7f) | 0x80);
        value >>= 7;
    }
    into.push(low(value));
}
