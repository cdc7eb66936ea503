//! What an upstream says before its response (RFC 9110 section 15.2).

#![forbid(unsafe_code)]

use http::{Request, StatusCode};

use super::body::RequestBody;
use super::expect::Question;
use crate::proxy::connection::interim::Interim;

/// Has the connection that the request goes by pass on what comes before the response: 100 as the answer to `question`, whatever
/// else is for the client. Over HTTP/2 hyper doesn't tell.
pub(super) fn hear(
    request: &mut Request<RequestBody>,
    question: Option<&Question>,
    interim: Option<&Interim>,
) {
    if question.is_none() && interim.is_none() {
        return;
    }
    let (question, interim) = (question.cloned(), interim.cloned());
    hyper::ext::on_informational(request, move |response| match response.status() {
        StatusCode::CONTINUE => question.iter().for_each(Question::is_wanted),
        status => interim.iter().for_each(|interim| interim.offer(status, response.headers())),
    });
}
