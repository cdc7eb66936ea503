//! The rootless proxy.

pub mod access_log;
pub mod activation;
pub mod admin;
pub mod cli;
pub mod config;
pub mod connection;
pub mod dns;
pub mod drain;
pub mod forward;
pub mod host;
pub mod listen;
pub mod live;
pub mod metrics;
pub mod proxy_protocol;
pub mod reload;
pub mod respond;
pub mod route;
pub mod run;
pub mod signals;
pub mod state;
pub mod timer;
pub mod tls;
pub mod upstream;
pub mod watcher;
pub mod worker;
