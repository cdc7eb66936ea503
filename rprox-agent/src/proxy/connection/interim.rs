//! Interim responses (1xx, RFC 9110 section 15.2) on their way to a client, ahead of the response that they belong to.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut as _, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};

use crate::proxy::forward::headers;

/// The interim responses of one request, which its upstream's connection offers and its client's takes.
#[derive(Clone)]
pub struct Interim(Rc<RefCell<State>>);

struct State {
    offered: Vec<Response<()>>,
    /// How many bytes they may still have, together.
    left: usize,
    /// Whether there were more.
    exceeded: bool,
    /// Who takes them.
    taker: Option<Waker>,
}

impl Interim {
    /// None yet. All there will be may have `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State { offered: Vec::new(), left: limit, exceeded: false, taker: None };
        Self(Rc::new(RefCell::new(state)))
    }

    /// One has come. It is dropped if those before it leave no room for it.
    pub fn offer(&self, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.0.borrow_mut();
        let Some(left) = state.left.checked_sub(length(headers)) else {
            state.exceeded = true;
            return;
        };
        state.left = left;
        let mut response = Response::new(());
        *response.status_mut() = status;
        headers.clone_into(response.headers_mut());
        restore(response.headers_mut());
        state.offered.push(response);
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    /// Those that have come since the last time. The task of `cx` is woken when there are more, and when who waits for them to
    /// be taken may go on.
    #[must_use]
    pub fn take(&self, cx: &Context<'_>) -> Vec<Response<()>> {
        let mut state = self.0.borrow_mut();
        if !state.offered.is_empty() {
            cx.waker().wake_by_ref();
        }
        if !state.taker.as_ref().is_some_and(|taker| taker.will_wake(cx.waker())) {
            state.taker = Some(cx.waker().clone());
        }
        std::mem::take(&mut state.offered)
    }

    /// Waits, in the task that takes them, until none is left to take.
    pub async fn taken(&self) {
        poll_fn(|_| if self.0.borrow().offered.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Whether some were dropped.
    #[must_use]
    pub fn was_exceeded(&self) -> bool {
        self.0.borrow().exceeded
    }
}

/// Makes an upstream's header section one for the client. What says how long a body is has no place in it (RFC 9110 section 8.6),
/// and is how one response could pass for two.
fn restore(headers: &mut HeaderMap) {
    headers::remove_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
}

/// How long it may get in HTTP/1.1, and what it costs to hold it.
fn length(headers: &HeaderMap) -> usize {
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    "HTTP/1.1 103 Early Hints\r\n\r\n".len() + fields.sum::<usize>()
}

/// Writes one as HTTP/1.1 has it (RFC 9112 section 4).
pub fn encode(response: &Response<()>, into: &mut BytesMut) {
    let status = response.status();
    into.put_slice(b"HTTP/1.1 ");
    into.put_slice(status.as_str().as_bytes());
    into.put_slice(b" ");
    into.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    into.put_slice(b"\r\n");
    for (name, value) in response.headers() {
        into.put_slice(name.as_str().as_bytes());
        into.put_slice(b": ");
        into.put_slice(value.as_bytes());
        into.put_slice(b"\r\n");
    }
    into.put_slice(b"\r\n");
}
