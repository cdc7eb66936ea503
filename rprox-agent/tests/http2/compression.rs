//! RFC 7541: header compression.

use crate::case::Code::{Compression, Protocol};
use crate::case::Outcome::{Answer, Connection};
use crate::case::{Case, check};
use crate::frames::{HEADERS, WHOLE, block, frame, request};

#[test]
fn rfc_7541() {
    let get = request("GET", "/", &[]);
    let block_of = |before: &[u8], after: &[u8]| frame(HEADERS, WHOLE, 1, &[before, &get, after].concat());
    let broken = || Connection(&[Compression]);
    // :method GET, :scheme http, :path / by their numbers in the static table, :authority as a literal that is added.
    let indexed = [&[0x82, 0x86, 0x84, 0x41][..], b"\x09a.example"].concat();
    check(&[
        Case("2.3.1", "the static table", frame(HEADERS, WHOLE, 1, &indexed), Answer(1, 200)),
        Case(
            "2.3.2",
            "the dynamic table",
            [frame(HEADERS, WHOLE, 1, &indexed), frame(HEADERS, WHOLE, 3, &[0x82, 0x86, 0x84, 0xbe])]
                .concat(),
            Answer(3, 200),
        ),
        Case("2.3.3", "an index beyond both tables", block_of(&[], &[0xff, 0x40]), broken()),
        Case("2.3.3", "a name's index beyond both tables", block_of(&[], &[0x7f, 0x40, 1, b'x']), broken()),
        Case("4.2", "a change of the table's size at the end", block_of(&[], &[0x20]), broken()),
        Case("4.2", "a change of the table's size at the beginning", block_of(&[0x20], &[]), Answer(1, 200)),
        Case(
            "5.1",
            "an integer without end",
            block_of(&[], &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
            broken(),
        ),
        Case(
            "5.2",
            "padding of more than seven bits",
            block_of(&[], &[0, 1, b'x', 0x82, 0x07, 0xff]),
            broken(),
        ),
        Case(
            "5.2",
            "padding that is not of the end's symbol",
            block_of(&[], &[0, 1, b'x', 0x81, 0x00]),
            broken(),
        ),
        Case(
            "5.2",
            "the end's symbol in a string",
            block_of(&[], &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            broken(),
        ),
        Case("5.2", "a string cut short", block_of(&[], &[0, 1, b'x', 10, b'y']), broken()),
        Case("6.1", "index 0", block_of(&[], &[0x80]), broken()),
        Case(
            "6.2.3",
            "literals that are never indexed",
            block_of(&[], &[0x10, 1, b'x', 1, b'y']),
            Answer(1, 200),
        ),
        Case("6.3", "a table above SETTINGS_HEADER_TABLE_SIZE", block_of(&[0x3f, 0xe2, 0x1f], &[]), broken()),
        Case(
            "8.2",
            "nothing but a name",
            frame(HEADERS, WHOLE, 1, &block(&[("x", "")])),
            crate::case::Outcome::Stream(&[Protocol]),
        ),
    ]);
}
