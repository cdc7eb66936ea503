//! What proxies are given to do.

use anyhow::{Context, Result};

use super::super::Extent;
use super::super::ends::{self, Deed};
use super::super::load::H2load;
use super::super::peers::{Door, Peer};
use super::super::upstream::BODIES;
use super::testbed::Testbed;

/// One kind of work, and how much of it a round of `--quick` is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) count: usize,
    /// Whether `--quick` has it too.
    pub(super) quick: bool,
}

/// How many times as much is done at length.
const AT_LENGTH: usize = 2;

#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// Requests by h2load.
    Requests(Requests),
    /// What an end of ours does.
    End { deed: Deed, door: Door },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Requests {
    door: Door,
    streams: Option<usize>,
    path: &'static str,
    connections: usize,
    close: bool,
    upload: Option<&'static str>,
}

/// The plainest of all, and how many a round of `--quick` has of them.
pub(super) const PLAIN: Requests = get("/1k", 32);
pub(super) const PLAIN_COUNT: usize = 8_000;

pub(super) const CASES: [Case; 16] = [
    case("HTTP/1.1, keep-alive, 1 KiB", PLAIN, PLAIN_COUNT, true),
    case("HTTP/1.1, new connections, 1 KiB", get("/1k", 32).close(), 3_000, true),
    case("HTTP/1.1, keep-alive, 100 KiB", get("/100k", 16), 1_500, true),
    case("HTTP/1.1, keep-alive, 100 MiB", get("/100m", 2), 8, false),
    case("HTTP/1.1, upload, 100 KiB", post("/100k", 16), 1_200, true),
    case("HTTP/1.1, upload, 100 MiB", post("/100m", 2), 4, false),
    // Few connections with many requests each: their handshakes are another row's.
    case("HTTP/1.1 over TLS, keep-alive, 1 KiB", get("/1k", 16).secure(), 10_000, true),
    case("HTTP/1.1 over TLS, keep-alive, 100 KiB", get("/100k", 8).secure(), 2_000, false),
    case("HTTP/1.1 over TLS, keep-alive, 100 MiB", get("/100m", 2).secure(), 4, false),
    case("HTTP/1.1 over TLS, upload, 100 KiB", post("/100k", 8).secure(), 1_200, true),
    case("HTTP/1.1 over TLS, upload, 100 MiB", post("/100m", 2).secure(), 4, false),
    end("TLS 1.3, full handshakes", Deed::Handshakes, Door::Https, 150),
    end("TLS 1.3, resumed handshakes", Deed::Resumptions, Door::Https, 150),
    case("HTTP/2, 100 streams, 1 KiB", get("/1k", 4).http2(), 6_000, true),
    case("HTTP/2, 100 streams, 100 KiB", get("/100k", 4).http2(), 1_000, false),
    end("WebSocket, messages of 1 KiB to and fro", Deed::Messages, Door::Http, 3_200),
];

/// TLS that the upstream ends. A new connection has a full handshake with it, of which the proxy sees bytes.
pub(super) const PASSTHROUGH: [Case; 4] = [
    case("TLS passthrough, keep-alive, 1 KiB", get("/1k", 16).passthrough(), 8_000, true),
    case("TLS passthrough, new connections, 1 KiB", get("/1k", 32).passthrough().close(), 500, false),
    case("TLS passthrough, keep-alive, 100 KiB", get("/100k", 8).passthrough(), 2_000, false),
    case("TLS passthrough, keep-alive, 100 MiB", get("/100m", 2).passthrough(), 4, false),
];

/// Among a thousand routes.
pub(super) const MANY_ROUTES: [Case; 1] =
    [case("HTTP/1.1, keep-alive, 1 KiB, 1,000 routes", PLAIN, PLAIN_COUNT, true)];

const fn case(name: &'static str, requests: Requests, count: usize, quick: bool) -> Case {
    Case { name, work: Work::Requests(requests), count, quick }
}

const fn end(name: &'static str, deed: Deed, door: Door, count: usize) -> Case {
    Case { name, work: Work::End { deed, door }, count, quick: true }
}

const fn get(path: &'static str, connections: usize) -> Requests {
    Requests { door: Door::Http, streams: None, path, connections, close: false, upload: None }
}

const fn post(body: &'static str, connections: usize) -> Requests {
    Requests { upload: Some(body), ..get("/upload", connections) }
}

impl Requests {
    const fn close(self) -> Self {
        Self { close: true, ..self }
    }

    const fn secure(self) -> Self {
        Self { door: Door::Https, ..self }
    }

    const fn passthrough(self) -> Self {
        Self { door: Door::Passthrough, ..self }
    }

    const fn http2(self) -> Self {
        Self { streams: Some(100), ..self.secure() }
    }

    /// How h2load sends them to `peer`.
    pub(super) fn load(self, testbed: &Testbed, peer: Peer) -> H2load<'_> {
        H2load {
            netns: &testbed.netns,
            scheme: self.door.scheme(),
            host: self.door.host(),
            target: peer.at(self.door),
            streams: self.streams,
            path: self.path,
            length: BODIES.iter().find(|(path, _)| *path == self.path).map_or(0, |(_, length)| *length),
            upload: self.upload.map(|body| testbed.bodies().join(body.trim_start_matches('/'))),
            close: self.close,
            connections: self.connections,
            pinned: true,
        }
    }
}

/// How much of it a round has, where one of `--quick` has `count`.
pub(super) fn round(count: usize, extent: Extent) -> usize {
    if extent.quick { count } else { count * AT_LENGTH }
}

impl Work {
    /// What the figure of its cost is.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Requests(_) => "µs/request",
            Self::End { deed: Deed::Messages, .. } => "µs/message",
            Self::End { .. } => "µs/handshake",
        }
    }

    /// Whether the body at `path` comes back in it.
    pub(super) fn asks_for(self, path: &str) -> bool {
        match self {
            Self::Requests(requests) => requests.path == path,
            Self::End { .. } => path == "/1k",
        }
    }

    /// Has `peer` do it `count` times.
    ///
    /// # Errors
    ///
    /// A response was not what it should be.
    pub(super) fn run(self, testbed: &Testbed, peer: Peer, count: usize) -> Result<()> {
        match self {
            Self::Requests(requests) => requests.load(testbed, peer).run(count).map(drop),
            Self::End { deed, door } => {
                ends::run(&testbed.netns, deed, peer.at(door), count, &testbed.authority)
            }
        }
        .with_context(|| peer.name())
    }
}
