//! What is too much: who sends it is refused or let go, and everybody else is served.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that fails where it stands is a good report")]

#[path = "../forward/agent.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod agent;
#[path = "../forward/client.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod client;
#[path = "../http2/frames.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod frames;
#[path = "../forward/upstream.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod upstream;

mod connections;
mod floods;
mod hits;
mod memory;
mod slow;
mod slowhttptest;
mod turns;
