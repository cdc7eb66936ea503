//! A request on its way to an endpoint.

#![forbid(unsafe_code)]

use http::request::Parts;
use http::{Method, Request};

use super::body::RequestBody;

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

    /// Whether doing it twice is doing it once (RFC 9110 section 9.2.2), and nothing of it is used up by sending it.
    pub(super) fn may_be_sent_again(&self) -> bool {
        self.body.is_none()
            && matches!(
                self.head.method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
            )
    }
}

impl From<UpstreamRequest> for Request<RequestBody> {
    fn from(UpstreamRequest { head, body }: UpstreamRequest) -> Self {
        Self::from_parts(*head, body)
    }
}

impl From<Request<RequestBody>> for UpstreamRequest {
    fn from(request: Request<RequestBody>) -> Self {
        let (head, body) = request.into_parts();
        Self { head: Box::new(head), body }
    }
}
