//! This hop's mark in `Via`, by which a request that comes by again is known (RFC 9110 section 7.6.3).

#![forbid(unsafe_code)]

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// The mark of this process, which no other has: two agents one behind the other are no loop.
#[derive(Debug)]
pub struct Via {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Default for Via {
    fn default() -> Self {
        Self::new(&format!("rprox-{:016x}", fastrand::u64(..)))
    }
}

impl Via {
    fn new(name: &str) -> Self {
        // It lasts as long as the process: so a clone, one for each request, needs no count of owners, which all workers would
        // write to. Letters, digits and a hyphen, as it is.
        let value = |version: &str| HeaderValue::from_static(format!("{version} {name}").leak());
        Self { name: name.to_owned(), http10: value("1.0"), http11: value("1.1"), http2: value("2.0") }
    }

    /// How many times the request has come by already.
    #[must_use]
    pub fn passes(&self, headers: &HeaderMap) -> usize {
        let fields = headers.get_all(VIA).into_iter();
        fields.filter_map(|field| field.to_str().ok()).map(|field| field.matches(&self.name).count()).sum()
    }

    /// Adds the mark to a request that came in `version`.
    pub fn mark(&self, version: Version, headers: &mut HeaderMap) {
        let value = match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        };
        headers.append(VIA, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_came_by_is_known_however_its_fields_are_joined() {
        let (via, other) = (Via::default(), Via::default());
        let mut headers = HeaderMap::new();
        assert_eq!(via.passes(&headers), 0);
        via.mark(Version::HTTP_2, &mut headers);
        other.mark(Version::HTTP_11, &mut headers);
        assert_eq!((via.passes(&headers), other.passes(&headers)), (1, 1));
        let joined = format!("1.1 {0}, 1.1 front (nginx), 1.0 {0}", via.name);
        headers.append(VIA, joined.parse().unwrap());
        assert_eq!(via.passes(&headers), 3);
    }
}
