//! The agent as a process, between a client and an upstream that write and see raw bytes.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that fails where it stands is a good report")]

mod agent;
mod bulk;
mod client;
mod http2_streams;
mod http2_upstream;
mod names;
mod pebble;
mod upstream;

mod access_log;
mod acme;
mod admin;
mod affinity;
mod balancing;
mod bodies_in_bulk;
mod client_certificates;
mod ends;
mod expectations;
mod grpc;
mod handover;
mod headers;
mod http2_upstreams;
mod interim;
mod listeners;
mod load;
mod loops;
mod nginx;
mod open_files;
mod passthrough;
mod pauses;
mod proxy_protocol;
mod proxy_protocol_out;
mod refusals;
mod reload;
mod retries;
mod secure;
mod services;
mod streams;
mod tls;
mod trailers;
mod upgrades;
mod websocket_over_http2;
mod websocket_to_http2;
