//! Paths that servers may read in more than one way, where some of a host's routes are for clients with a certificate.
//!
//! A route is found by the path as it is written. The upstream behind it may decode the path and resolve it, and so serve what another
//! route is for. How it reads a path we can't know; so where a path is not read in one way by all, whoever asks must be good enough for
//! every such route of the host.

#![forbid(unsafe_code)]

use std::sync::Arc;

use foldhash::HashMap;

use super::{Route, segment_end};

/// The routes of a host that are for clients with a certificate.
#[derive(Debug)]
pub struct Guard {
    routes: Vec<Arc<Route>>,
    /// The places of all of the host's routes by their paths, resolved and without trailing slash.
    places: HashMap<Box<str>, usize>,
}

impl Guard {
    /// The guard of the host that has `routes`, which come with their places; `None` where nobody needs a certificate.
    pub(super) fn of<'a>(routes: impl Iterator<Item = &'a (usize, Arc<Route>)> + Clone) -> Option<Box<Self>> {
        let guarded = routes.clone().map(|(_, route)| route).filter(|route| route.client_auth.is_some());
        let guarded: Vec<_> = guarded.cloned().collect();
        let path =
            |route: &Route| Reading::of(&route.path).map_or_else(|| route.path.clone(), |read| read.path);
        let places = routes.map(|(place, route)| (path(route).trim_end_matches('/').into(), *place));
        (!guarded.is_empty()).then(|| Box::new(Self { routes: guarded, places: places.collect() }))
    }

    /// The routes that have to let a client pass besides the one at `place`, which is `path`'s as it is written.
    #[must_use]
    pub fn beside(&self, place: usize, path: &str) -> &[Arc<Route>] {
        match Reading::of(path) {
            Some(reading) if reading.is_unclear || self.find(&reading.path) != Some(place) => &self.routes,
            _ => &[],
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let mut path = path.trim_end_matches('/');
        loop {
            match self.places.get(path) {
                None if !path.is_empty() => path = &path[..segment_end(path.as_bytes())],
                found => return found.copied(),
            }
        }
    }
}

/// A path as a server reads it that decodes it, takes a backslash for a slash, and leaves out parameters and what leads nowhere (`//`, `.`).
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    path: String,
    /// Whether a server that does less of this may end up somewhere else than below one of the path's own beginnings.
    is_unclear: bool,
}

impl Reading {
    /// `None` where the path is read as it is written.
    fn of(path: &str) -> Option<Self> {
        if !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.") {
            return None;
        }
        let decoded = decoded(path.as_bytes());
        // Parameters end at the next slash, for some servers before they decode them.
        let parameters = |segment: &str| segment.split_once(';').is_some_and(|(_, more)| more.contains('%'));
        let mut is_unclear = decoded.contains(&b'\\') || path.split('/').any(parameters);
        let mut segments: Vec<&[u8]> = Vec::new();
        for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
            match segment.split(|byte| *byte == b';').next() {
                None | Some(b"" | b".") => {}
                Some(b"..") => {
                    is_unclear = true;
                    segments.pop();
                }
                Some(segment) => segments.push(segment),
            }
        }
        let path = segments.iter().flat_map(|segment| [b"/", *segment]).collect::<Vec<_>>().concat();
        Some(Self { path: String::from_utf8_lossy(&path).into_owned(), is_unclear })
    }
}

/// `path` with nothing left to decode: some servers do so twice.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    for byte in path {
        decoded.push(*byte);
        // What is decoded may be the percent sign, or a digit, of the next.
        while let [.., b'%', high, low] = decoded[..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(high << 4 | low);
        }
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_servers_do_that_mean_well() {
        for (path, expected) in [
            ("/a/b", None),
            ("/", None),
            ("/a/b/", None),
            ("/a.b", None),
            ("/%61/b", Some(("/a/b", false))),
            ("/%2561", Some(("/a", false))),
            ("/%%361", Some(("/a", false))),
            ("/a%2Fb", Some(("/a/b", false))),
            ("//a//b/./", Some(("/a/b", false))),
            ("/a;b/c;d=e", Some(("/a/c", false))),
            ("/100%", Some(("/100%", false))),
            ("/%zz", Some(("/%zz", false))),
            ("/%ff", Some(("/\u{fffd}", false))),
            ("/x/../a", Some(("/a", true))),
            ("/x/%2e%2E/a", Some(("/a", true))),
            ("/x/%252e./a", Some(("/a", true))),
            ("/x/..;y=z/a;b", Some(("/a", true))),
            ("/x/..\\a", Some(("/a", true))),
            ("/../a", Some(("/a", true))),
            ("/a/..", Some(("", true))),
            ("/a\\b", Some(("/a/b", true))),
            ("/a%5cb", Some(("/a/b", true))),
            ("/a;%2Fb/c", Some(("/a/b/c", true))),
        ] {
            let expected = expected.map(|(path, is_unclear)| Reading { path: path.to_owned(), is_unclear });
            assert_eq!(Reading::of(path), expected, "{path}");
        }
    }
}
