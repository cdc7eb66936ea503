//! The examples of RFC 7541, appendix C, and what goes in comes out.

use http::header::{CONTENT_TYPE, DATE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    decoder
        .decode(block, |field| {
            fields.push(match field {
                Field::Pseudo(pseudo, value) => {
                    (format!(":{}", format!("{pseudo:?}").to_lowercase()), text(value))
                }
                Field::Header(name, value) => (name.to_string(), text(value.as_bytes())),
                Field::Malformed(..) => ("malformed".to_owned(), field.size().to_string()),
            });
            true
        })
        .unwrap();
    fields
}

fn check(blocks: &[(&str, &[(&str, &str)])]) {
    let mut decoder = Decoder::new();
    for (block, fields) in blocks {
        let expected: Vec<_> = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(decoded(&mut decoder, &bytes(block)), expected);
    }
}

const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn appendix_c_2_single_fields() {
    check(&[(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &[("custom-key", "custom-header")],
    )]);
    check(&[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")])]);
    check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")])]);
    check(&[("82", &[(":method", "GET")])]);
}

#[test]
fn appendix_c_3_and_c_4_requests() {
    check(&[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST),
        ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD),
    ]);
    check(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST),
        ("8286 84be 5886 a8eb 1064 9cbf", SECOND),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD),
    ]);
}

#[test]
fn appendix_c_6_responses_whose_table_holds_256_bytes() {
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let later = "Mon, 21 Oct 2013 20:13:22 GMT";
    let location = ("location", "https://www.example.com");
    let private = ("cache-control", "private");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    check(&[
        ("3fe1 01", &[]),
        (
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
             29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &[(":status", "302"), private, ("date", date), location],
        ),
        ("4883 640e ffc1 c0bf", &[(":status", "307"), private, ("date", date), location]),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d
             d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106
             3d50 07",
            &[
                (":status", "200"),
                private,
                ("date", later),
                location,
                ("content-encoding", "gzip"),
                ("set-cookie", cookie),
            ],
        ),
    ]);
}

#[test]
fn what_is_encoded_is_decoded() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut sizes = Vec::new();
    for round in 0..300 {
        if round == 200 {
            encoder.set_limit(0);
            encoder.set_limit(100);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.append(SET_COOKIE, HeaderValue::from_static("a=b"));
        headers.append(SET_COOKIE, HeaderValue::from_static("c=d"));
        headers.insert(DATE, HeaderValue::try_from(format!("at {}", round / 10)).unwrap());
        let name = HeaderName::try_from(format!("x-{}", round % 7)).unwrap();
        headers.insert(name, HeaderValue::from_bytes(b"\xffa").unwrap());
        let mut block = Vec::new();
        encoder.encode(Some(StatusCode::IM_A_TEAPOT), &headers, &mut block);
        sizes.push(block.len());
        let mut back = HeaderMap::new();
        let mut status = None;
        decoder
            .decode(&block, |field| {
                match field.clone() {
                    Field::Pseudo(Pseudo::Status, value) => status = Some(value),
                    Field::Header(name, value) => drop(back.append(name, value)),
                    other => panic!("{other:?}"),
                }
                true
            })
            .unwrap();
        assert_eq!((status.as_deref(), &back), (Some(&b"418"[..]), &headers));
    }
    assert!(sizes[99] * 2 < sizes[0], "{sizes:?}");
}

#[test]
fn what_is_malformed_has_its_place_in_the_table() {
    let mut decoder = Decoder::new();
    // A name in upper case, added to the table; then a field of our own, and both by their numbers.
    let block = [&[0x40, 1, b'X', 1, b'y', 0x40, 1, b'z', 1, b'y'][..], &[0xbf, 0xbe]].concat();
    let fields = decoded(&mut decoder, &block);
    let expected = [("malformed", "34"), ("z", "y"), ("malformed", "34"), ("z", "y")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn no_bytes_make_it_panic() {
    let mut decoder = Decoder::new();
    let mut seed = 1_u32;
    for _ in 0..200_000 {
        let block: [u8; 12] = std::array::from_fn(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let _ = decoder.decode(&block, |_| true);
    }
}
