//! Which host a request is for (RFC 9112 section 3.2, RFC 9113 section 8.3.1).

#![forbid(unsafe_code)]

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};

use crate::proxy::host;

/// The host as the client wrote it, and where it is.
#[derive(Clone, Debug)]
pub struct Target(HeaderValue);

impl Target {
    /// Takes the authority from the request and leaves it with an origin-form target and one `Host` field that says the same.
    ///
    /// # Errors
    ///
    /// The reason why the request is malformed.
    pub fn take(parts: &mut Parts) -> Result<Self, &'static str> {
        let field = host_field(parts)?;
        form(parts)?;
        let Some(authority) = parts.uri.authority() else {
            return field.map_or(Ok(Self(HeaderValue::from_static(""))), Self::checked);
        };
        let authority =
            HeaderValue::from_str(authority.as_str()).map_err(|_| "the target's host is malformed")?;
        if let Some(field) = field
            && parts.version == Version::HTTP_2
            && field != authority
        {
            return Err("Host and :authority differ");
        }
        let resource = parts.uri.path_and_query().cloned();
        let resource = resource
            .filter(|resource| !resource.as_str().is_empty())
            .unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(resource);
        parts.headers.insert(HOST, authority.clone());
        Self::checked(authority)
    }

    fn checked(authority: HeaderValue) -> Result<Self, &'static str> {
        let malformed = "the host is malformed";
        let text = authority.to_str().map_err(|_| malformed)?;
        host::normalise(text).ok_or(malformed)?;
        Ok(Self(authority))
    }

    /// As the client wrote it, with the port; empty when HTTP/1.0 named none.
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.0
    }

    /// In the form that routes and certificates are compared in; empty when the client named none.
    #[must_use]
    pub fn host(&self) -> Cow<'_, str> {
        self.0.to_str().ok().and_then(host::normalise).unwrap_or_default()
    }
}

/// Checks the target's form (RFC 9112 section 3.2): a path, or a whole URI of ours; `*` for OPTIONS alone.
fn form(parts: &Parts) -> Result<(), &'static str> {
    let http = |scheme: &str| matches!(scheme, "http" | "https");
    match (parts.uri.scheme_str(), parts.uri.authority()) {
        (None, Some(_)) => Err("the target is neither a path nor a URI"),
        (Some(scheme), _) if !http(scheme) => Err("the target's scheme is not http or https"),
        _ if parts.uri.path() == "*" && parts.method != Method::OPTIONS => Err("the target * is for OPTIONS"),
        _ => Ok(()),
    }
}

/// The `Host` field, which HTTP/1.1 must have exactly once.
fn host_field(parts: &Parts) -> Result<Option<HeaderValue>, &'static str> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next().cloned();
    if fields.next().is_some() {
        return Err("more than one Host field");
    }
    if field.is_none() && parts.version == Version::HTTP_11 {
        return Err("no Host field");
    }
    if field.is_none() && parts.version == Version::HTTP_2 && parts.uri.authority().is_none() {
        return Err("neither :authority nor Host");
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn take(version: Version, uri: &str, hosts: &[&str]) -> Result<(String, String, String), &'static str> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let target = Target::take(&mut parts)?;
        let field = parts.headers.get(HOST).map_or("", |host| host.to_str().unwrap());
        assert_eq!(target.authority(), field);
        Ok((target.host().into_owned(), field.to_owned(), parts.uri.to_string()))
    }

    fn text(parts: (&str, &str, &str)) -> (String, String, String) {
        (parts.0.to_owned(), parts.1.to_owned(), parts.2.to_owned())
    }

    #[test]
    fn the_host_field_is_kept_as_it_came() {
        assert_eq!(
            take(Version::HTTP_11, "/x?y", &["A.Example:80"]),
            Ok(text(("a.example", "A.Example:80", "/x?y")))
        );
    }

    #[test]
    fn an_absolute_target_wins_over_the_host_field() {
        let result = take(Version::HTTP_11, "http://a.example/x?y", &["b.example"]);
        assert_eq!(result, Ok(text(("a.example", "a.example", "/x?y"))));
        assert_eq!(
            take(Version::HTTP_11, "http://a.example", &["b"]),
            Ok(text(("a.example", "a.example", "/")))
        );
    }

    #[test]
    fn http2_s_authority_becomes_the_host_field() {
        let result = take(Version::HTTP_2, "https://a.example:8443/x", &[]);
        assert_eq!(result, Ok(text(("a.example", "a.example:8443", "/x"))));
        assert_eq!(take(Version::HTTP_2, "/x", &["a.example"]), Ok(text(("a.example", "a.example", "/x"))));
        assert!(take(Version::HTTP_2, "https://a.example/", &["b.example"]).is_err());
        assert!(take(Version::HTTP_2, "/x", &[]).is_err());
    }

    #[test]
    fn what_is_no_single_good_host_is_refused() {
        assert!(take(Version::HTTP_11, "/", &[]).is_err());
        assert!(take(Version::HTTP_11, "/", &["a", "a"]).is_err());
        assert!(take(Version::HTTP_11, "/", &["a b"]).is_err());
        assert!(take(Version::HTTP_11, "/", &[""]).is_err());
        assert!(take(Version::HTTP_11, "http://user@a.example/", &["a.example"]).is_err());
        assert!(take(Version::HTTP_11, "a.example", &["a.example"]).is_err());
        assert!(take(Version::HTTP_11, "ftp://a.example/", &["a.example"]).is_err());
        assert!(take(Version::HTTP_11, "*", &["a.example"]).is_err());
        assert_eq!(take(Version::HTTP_10, "/", &[]), Ok(text(("", "", "/"))));
    }
}
