//! The Huffman code (RFC 7541 section 5.2 and appendix B).

#![forbid(unsafe_code)]

use super::decoder::Broken;

/// How many bits each byte's code has. The code is a canonical one: what the bits are follows from this.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The end's symbol, of which only the first bits may be there, as padding.
const LONGEST: u32 = 30;

/// Each byte's code.
const CODES: [u32; 256] = codes();

/// Where four more bits lead from each inner node of the code's tree.
static STEPS: [[Step; 16]; NODES] = steps();

/// A tree with 257 leaves has as many inner nodes less one.
const NODES: usize = 256;

#[derive(Clone, Copy)]
struct Step {
    node: u8,
    /// The byte whose code these bits complete.
    byte: u8,
    is_byte: bool,
    /// The end's symbol came.
    is_broken: bool,
}

const fn codes() -> [u32; 256] {
    let mut codes = [0; 256];
    let (mut code, mut length) = (0, 1);
    while length <= LONGEST {
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as u32 == length {
                codes[byte] = code;
                code += 1;
            }
            byte += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
}

/// The end's symbol as a leaf; bytes have their number, inner nodes theirs plus [`INNER`].
const END: u16 = 256;
const INNER: u16 = 512;

#[expect(clippy::cast_possible_truncation, reason = "there are 256 bytes, and 256 inner nodes")]
const fn steps() -> [[Step; 16]; NODES] {
    let mut children = [[0_u16; 2]; NODES];
    let mut made = 1;
    let mut symbol = 0;
    while symbol <= 256 {
        let (code, length) = if symbol < 256 {
            (CODES[symbol], LENGTHS[symbol] as u32)
        } else {
            (u32::MAX >> (32 - LONGEST), LONGEST)
        };
        let mut node = 0;
        let mut bit = length;
        while bit > 0 {
            bit -= 1;
            let side = (code >> bit & 1) as usize;
            if bit == 0 {
                children[node][side] = symbol as u16;
            } else {
                if children[node][side] == 0 {
                    children[node][side] = INNER + made;
                    made += 1;
                }
                node = (children[node][side] - INNER) as usize;
            }
        }
        symbol += 1;
    }
    let mut steps = [[Step { node: 0, byte: 0, is_byte: false, is_broken: false }; 16]; NODES];
    let mut from = 0;
    while from < NODES {
        let mut bits = 0;
        while bits < 16 {
            let mut step = Step { node: 0, byte: 0, is_byte: false, is_broken: false };
            let mut node = from;
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let child = children[node][bits >> bit & 1];
                if child >= INNER {
                    node = (child - INNER) as usize;
                } else {
                    if child == END {
                        step.is_broken = true;
                    }
                    step.byte = child as u8;
                    step.is_byte = true;
                    node = 0;
                }
            }
            step.node = node as u8;
            steps[from][bits] = step;
            bits += 1;
        }
        from += 1;
    }
    steps
}

/// Appends what `code` stands for.
pub(super) fn decode(code: &[u8], into: &mut Vec<u8>) -> Result<(), Broken> {
    let mut node = 0;
    // How many bits came since the last byte was complete, and whether all of them were ones.
    let (mut open, mut ones) = (0_u32, true);
    for &two in code {
        for bits in [two >> 4, two & 0xf] {
            let step = STEPS[usize::from(node)][usize::from(bits)];
            if step.is_broken {
                return Err(Broken);
            }
            node = step.node;
            if step.is_byte {
                into.push(step.byte);
                // A code has five bits at least, so at most one is completed by four.
                open = rest(step.byte, open);
                ones = bits & ((1 << open) - 1) == (1 << open) - 1;
            } else {
                open += 4;
                ones &= bits == 0xf;
            }
        }
    }
    // Padding is the beginning of the end's symbol, and shorter than a byte.
    if open < 8 && ones { Ok(()) } else { Err(Broken) }
}

/// How many of four bits were left over by the byte that they completed, of which `open` bits had come before.
fn rest(byte: u8, open: u32) -> u32 {
    open + 4 - u32::from(LENGTHS[usize::from(byte)])
}

/// How long the code for `bytes` is.
pub(super) fn length(bytes: &[u8]) -> usize {
    let bits: usize = bytes.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the code for `bytes`.
#[expect(clippy::cast_possible_truncation, reason = "the lowest eight bits are meant")]
pub(super) fn encode(bytes: &[u8], into: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0);
    for byte in bytes {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(CODES[usize::from(*byte)]);
        have += length;
        while have >= 8 {
            have -= 8;
            into.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        into.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        for pair in 0..=u16::MAX {
            let bytes = pair.to_be_bytes();
            let (mut code, mut back) = (Vec::new(), Vec::new());
            encode(&bytes, &mut code);
            assert_eq!(code.len(), length(&bytes));
            decode(&code, &mut back).unwrap();
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn wrong_padding_and_the_end_are_refused() {
        let decoded = |code: &[u8]| decode(code, &mut Vec::new());
        assert!(decoded(&[]).is_ok());
        assert!(decoded(&[0x07]).is_ok(), "a zero and three ones");
        for code in [&[0x00][..], &[0x07, 0xff], &[0xff], &[0xff; 2], &[0xff; 4], &[0x06]] {
            assert!(decoded(code).is_err(), "{code:x?}");
        }
    }
}
