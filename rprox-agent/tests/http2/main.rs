//! Conformance of HTTP/2: what h2spec covers, section by section of RFC 9113, and of RFC 7541 for header compression.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that fails where it stands is a good report")]

#[path = "../forward/agent.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod agent;
mod case;
#[expect(dead_code, reason = "shared with other tests")]
mod frames;
#[path = "../smuggling/recorder.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod recorder;

mod compression;
mod endings;
mod frame_types;
mod framing;
mod messages;
mod streams;
