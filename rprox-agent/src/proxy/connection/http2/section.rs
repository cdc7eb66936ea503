//! The header section of a request, and what is made of it (RFC 9113 section 8.3).

#![forbid(unsafe_code)]

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, request, uri};

use super::hpack::{Field, Pseudo};

/// How many times the limit a section may be, to be read to its end nevertheless: the table that blocks share has to be kept.
const READ_ON: usize = 4;

/// A section that is read field by field.
pub(super) struct Section {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    headers: HeaderMap,
    size: usize,
    limit: usize,
    pub(super) is_malformed: bool,
    /// Larger than the limit. Its fields are not kept then.
    pub(super) is_too_large: bool,
}

/// A request that there can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Section {
    /// One that may count for `limit` bytes (RFC 9113 section 6.5.2).
    pub(super) fn new(limit: usize) -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            headers: HeaderMap::new(),
            size: 0,
            limit,
            is_malformed: false,
            is_too_large: false,
        }
    }

    /// Takes the next field; false when it is so far beyond the limit that nobody means well by it.
    pub(super) fn take(&mut self, field: &Field) -> bool {
        self.size += field.size();
        self.is_too_large |= self.size > self.limit;
        if !self.is_too_large {
            match field {
                Field::Pseudo(pseudo, value) => self.take_pseudo(*pseudo, value),
                Field::Header(name, value) => self.take_header(name, value),
                Field::Malformed(..) => self.is_malformed = true,
            }
        }
        !self.is_far_too_large()
    }

    pub(super) fn is_far_too_large(&self) -> bool {
        self.size > self.limit.saturating_mul(READ_ON)
    }

    fn take_pseudo(&mut self, pseudo: Pseudo, value: &Bytes) {
        let place = match pseudo {
            Pseudo::Method => &mut self.method,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
            Pseudo::Status => {
                self.is_malformed = true;
                return;
            }
        };
        self.is_malformed |= !self.headers.is_empty() || place.is_some();
        *place = Some(value.clone());
    }

    fn take_header(&mut self, name: &HeaderName, value: &HeaderValue) {
        // What is a connection's in HTTP/1.1 has no place here (RFC 9113 section 8.2.2).
        let is_connections = [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || (*name == TE && value != "trailers");
        self.is_malformed |= is_connections;
        self.is_too_large |= self.headers.try_append(name, value.clone()).is_err();
    }

    /// As trailers.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let pseudo = [self.method, self.scheme, self.authority, self.path, self.protocol];
        if self.is_malformed || pseudo.iter().any(Option::is_some) {
            return Err(Malformed);
        }
        Ok(self.headers)
    }

    /// As a request's head.
    pub(super) fn into_request(self) -> Result<request::Parts, Malformed> {
        if self.is_malformed {
            return Err(Malformed);
        }
        let method = Method::from_bytes(&self.method.ok_or(Malformed)?).map_err(|_| Malformed)?;
        let is_connect = method == Method::CONNECT;
        // Without a protocol it asks for a tunnel, by the authority alone (RFC 9113 section 8.5, RFC 8441 section 4).
        let is_tunnel = is_connect && self.protocol.is_none();
        if (self.protocol.is_some() && !is_connect)
            || self.scheme.is_some() == is_tunnel
            || self.path.is_some() == is_tunnel
        {
            return Err(Malformed);
        }
        let mut parts = uri::Parts::default();
        if let Some(scheme) = self.scheme {
            let scheme = Scheme::try_from(&scheme[..]).map_err(|_| Malformed)?;
            // A Uri has none without an authority.
            parts.scheme = self.authority.is_some().then_some(scheme);
        }
        if let Some(authority) = self.authority {
            parts.authority = Some(Authority::from_maybe_shared(authority).map_err(|_| Malformed)?);
        }
        if let Some(path) = self.path {
            if path.is_empty() {
                return Err(Malformed);
            }
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed)?);
        }
        let uri = uri::Uri::from_parts(parts).map_err(|_| Malformed)?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        if let Some(protocol) = self.protocol {
            let protocol = std::str::from_utf8(&protocol).map_err(|_| Malformed)?;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        Ok(request.into_parts().0)
    }
}
