//! Requests and responses that two parsers could read two ways: what the upstream's socket gets of them, to the byte.
//!
//! Each file has a table. A row is what a client (or an upstream) sends, and the one right outcome.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that fails where it stands is a good report")]

#[path = "../forward/agent.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod agent;
mod case;
#[path = "../http2/frames.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod frames;
mod recorder;

mod chunks;
mod downgrade;
mod hosts;
mod lengths;
mod lines;
mod requests;
mod responses;
