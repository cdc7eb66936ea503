//! The rootless proxy.

pub mod cli;
pub mod config;
pub mod dns;
pub mod host;
pub mod route;
pub mod tls;
pub mod upstream;
