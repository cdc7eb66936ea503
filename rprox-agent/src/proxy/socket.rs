//! The sockets that bytes come and go by: how they are accepted, read and written, with and without TLS, and spliced.

#![deny(unsafe_code)]

pub mod acceptor;
pub mod lazy_tcp;
pub mod pipe;
pub mod stream;
pub mod tcp;
pub mod watched;
