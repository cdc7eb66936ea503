//! The responses that the agent makes itself: short plain texts.

#![forbid(unsafe_code)]

pub mod grpc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};

/// `STATUS REASON: detail` as plain text. `detail` is for whoever sent the request: no addresses from the inside.
#[must_use]
pub fn text(status: StatusCode, detail: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{status}: {detail}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// 200 with `body` and nothing else to say.
#[must_use]
pub fn plain(body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A status that says it all.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// To the same resource over HTTPS. 308 keeps the method and the body of a request that has one; 301 is what even the
/// oldest client of a page understands.
#[must_use]
pub fn https_redirect(method: &Method, host: &str, path_and_query: &str) -> Response<Bytes> {
    let Ok(location) = HeaderValue::try_from(format!("https://{host}{path_and_query}")) else {
        return text(StatusCode::BAD_REQUEST, "the request's target can't be put into a Location");
    };
    let safe = matches!(*method, Method::GET | Method::HEAD);
    let status = if safe { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    let mut response = text(status, "this host is served over HTTPS");
    response.headers_mut().insert(LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_the_target_and_the_method() {
        let get = https_redirect(&Method::GET, "a.example", "/x?y=1");
        assert_eq!(get.status(), 301);
        assert_eq!(get.headers()[LOCATION], "https://a.example/x?y=1");
        assert_eq!(https_redirect(&Method::HEAD, "a.example", "/").status(), 301);
        assert_eq!(https_redirect(&Method::POST, "a.example", "/").status(), 308);
    }
}
