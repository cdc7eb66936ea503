//! The agent as a process, between a client and an upstream that write and see raw bytes.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that fails where it stands is a good report")]

mod agent;
mod client;
mod names;
mod upstream;

mod admin;
mod client_certificates;
mod ends;
mod headers;
mod load;
mod proxy_protocol;
mod refusals;
mod reload;
mod retries;
mod streams;
mod tls;
mod upgrades;
mod websocket_over_http2;
