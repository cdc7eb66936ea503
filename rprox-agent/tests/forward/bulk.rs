//! Much at once: what it is made of, and how it is looked at.

use std::io::{Read, Write};
use std::process::Command;

/// More than all buffers on the way hold.
pub(crate) const LENGTH: usize = 100 << 20;

/// What is sent, again and again: no piece that is lost, doubled or out of order leaves it as it was.
pub(crate) fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed;
    // A prime number of bytes, so that no buffer's size divides it.
    let bytes = (0..1_048_573).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    bytes.collect()
}

/// Sends `LENGTH` bytes of it.
pub(crate) fn send(to: &mut impl Write, pattern: &[u8]) {
    let mut left = LENGTH;
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        to.write_all(part).unwrap();
        left -= part.len();
    }
}

/// Reads `LENGTH` bytes, and that they are what they should be.
pub(crate) fn receive(from: &mut impl Read, pattern: &[u8]) {
    let (mut piece, mut length) = (vec![0; pattern.len()], 0);
    while length < LENGTH {
        let part = &pattern[..(LENGTH - length).min(pattern.len())];
        from.read_exact(&mut piece[..part.len()]).unwrap();
        assert!(
            piece[..part.len()] == *part,
            "other bytes arrive between {length} and {}",
            length + part.len()
        );
        length += part.len();
    }
}

/// Runs `program` where there is no `splice`.
pub(crate) fn without_splice(program: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args([
        // The agent is then our child, and strace the one that ends with it.
        "-D",
        "-f",
        "-qq",
        "-e",
        "trace=splice",
        "-e",
        "inject=splice:error=EINVAL",
        "-o",
        "/dev/null",
    ]);
    strace.arg(program);
    strace
}
