use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake};

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::*;
use crate::proxy::connection::http2::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEAD, HEADERS, Head,
};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn with_streams(ids: &[u32]) -> Streams {
    let mut streams = Streams::new(Spare::default());
    for id in ids {
        streams.names(*id);
        streams.begin(*id, None, true);
    }
    streams
}

/// The frames that are to be sent, and then are.
fn frames(streams: &mut Streams) -> Vec<(Head, Vec<u8>)> {
    let mut bytes = streams.unsent();
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let head = Head::read(head);
        let (payload, rest) = rest.split_at(head.length);
        frames.push((head, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    streams.was_sent(streams.unsent().len());
    frames
}

#[test]
fn a_long_section_goes_on_in_continuations() {
    let mut streams = with_streams(&[1]);
    let mut headers = HeaderMap::new();
    for number in 0..20 {
        let name = HeaderName::try_from(format!("x-{number}")).unwrap();
        headers.insert(name, HeaderValue::try_from("~".repeat(2_000)).unwrap());
    }
    streams.send_section(1, Some(StatusCode::OK), &headers, true).unwrap();
    let frames = frames(&mut streams);
    let kinds: Vec<_> = frames.iter().map(|(head, _)| (head.kind, head.flags)).collect();
    assert_eq!(kinds, [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
    let (mut block, mut fields) = (Vec::new(), 0);
    for (_, payload) in &frames {
        block.extend(payload);
    }
    let mut decoder = crate::proxy::connection::http2::hpack::Decoder::new();
    decoder
        .decode(&block, |_| {
            fields += 1;
            true
        })
        .unwrap();
    assert_eq!(fields, 21);
}

#[test]
fn the_windows_say_how_much_is_sent_and_who_waits_is_woken() {
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let cx = Context::from_waker(&waker);
    let mut streams = with_streams(&[1, 3]);
    assert!(streams.set_initial_window(40_000));
    let data = vec![b'x'; 50_000];
    assert!(streams.poll_room(1, &cx).is_ready());
    assert_eq!(streams.send_data(1, &data, true), Ok(40_000), "its own window");
    assert_eq!(streams.poll_room(1, &cx), Poll::Pending);
    let mut sent = frames(&mut streams);
    assert_eq!(streams.send_data(3, &data, true), Ok(25_535), "the connection's");
    assert_eq!(streams.poll_room(3, &cx), Poll::Pending);
    sent.extend(frames(&mut streams));
    assert_eq!(sent.iter().map(|(head, _)| head.length).sum::<usize>(), 65_535);
    assert!(sent.iter().all(|(head, _)| head.kind == DATA && head.flags == 0 && head.length <= 16_384));
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    assert!(streams.widen(100_000));
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "the one that has a window of its own");
    assert_eq!(streams.send_data(3, &data[25_535..], true), Ok(14_465));
    assert!(streams.widen_stream(1, 10_000));
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert_eq!(streams.send_data(1, &data[40_000..], true), Ok(10_000));
    assert!(frames(&mut streams).last().unwrap().0.has(END_STREAM));
    assert_eq!(streams.known(1), Known::Closed);
    assert_eq!(streams.known(3), Known::HalfClosed, "ten thousand bytes are left");
    assert!(!streams.widen(u32::MAX >> 1));
}

#[test]
fn who_fills_the_room_waits_until_it_was_sent() {
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let cx = Context::from_waker(&waker);
    let mut streams = with_streams(&[1]);
    assert!(streams.widen(1 << 20) && streams.widen_stream(1, 1 << 20));
    let data = vec![b'x'; 200_000];
    let mut sent = 0;
    while streams.poll_room(1, &cx).is_ready() {
        sent += streams.send_data(1, &data[sent..], true).unwrap();
    }
    assert!((MOST..2 * MOST).contains(&sent), "{sent}");
    assert!(!streams.is_backed_up());
    frames(&mut streams);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(streams.poll_room(1, &cx).is_ready());
}

#[test]
fn a_stream_is_forgotten_once_it_is_closed_and_nobody_has_it() {
    let mut streams = with_streams(&[1, 3]);
    streams.send_end(1).unwrap();
    assert_eq!((streams.open(), streams.len()), (1, 2));
    streams.drop_sender(1);
    streams.drop_receiver(1);
    assert_eq!((streams.open(), streams.len()), (1, 1));
    streams.drop_receiver(3);
    assert_eq!(streams.open(), 1);
    streams.drop_sender(3);
    assert_eq!((streams.open(), streams.len()), (0, 0));
    assert_eq!(
        (streams.known(1), streams.known(3), streams.known(5)),
        (Known::Closed, Known::Reset, Known::Idle)
    );
}
