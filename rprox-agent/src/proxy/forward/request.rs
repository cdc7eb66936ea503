//! A request on its way to an endpoint.

#![forbid(unsafe_code)]

use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};

use super::body::RequestBody;
use super::expect::Question;
use super::forwarded::Forwarded;
use crate::proxy::connection::interim::Interim;

/// What is sent, from the client's head to the endpoint's. The head is in a box all the way: it is large, and would be copied into the future of
/// each step.
pub struct UpstreamRequest {
    /// The head.
    pub head: Box<Parts>,
    /// The body.
    pub body: RequestBody,
}

impl UpstreamRequest {
    /// For `/`, with neither fields nor a body.
    #[must_use]
    pub fn empty() -> Self {
        Self { head: Box::new(Request::new(()).into_parts().0), body: RequestBody::none() }
    }

    /// Whether doing it twice is doing it once (RFC 9110 section 9.2.2), and nothing of it is used up by sending it. A CONNECT is a
    /// WebSocket's, which a GET asks for in HTTP/1.1.
    pub(super) fn may_be_sent_again(&self) -> bool {
        self.body.is_none()
            && matches!(
                self.head.method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::CONNECT
            )
    }
}

/// What goes with a request.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Fields besides its own.
    pub(super) forwarded: Option<&'a Forwarded>,
    /// What 100 is the answer to.
    pub(super) question: Option<&'a Question>,
    /// Who hears whatever else comes before the response (RFC 9110 section 15.2).
    pub(super) interim: Option<&'a Interim>,
    /// Whether what there is of the response's body is read with the head, for one write to send both on. Over HTTP/2 it would wait for its
    /// stream's turn.
    pub(super) body_with_head: bool,
}

impl Beside<'_> {
    /// An interim response has come.
    pub(super) fn hears(&self, status: StatusCode, headers: &HeaderMap) {
        match status {
            StatusCode::CONTINUE => self.question.into_iter().for_each(Question::is_wanted),
            _ => self.interim.into_iter().for_each(|interim| interim.offer(status, headers)),
        }
    }
}
