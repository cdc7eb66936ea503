//! A descriptor in the event loop of this thread.

#![allow(
    unsafe_code,
    reason = "the event loop keeps the descriptor's number, and has to be told that it stays open"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the event loop tell when there is something to read or to accept.
///
/// # Errors
///
/// When there is no memory for it.
pub fn for_reading(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: what an `OwnedFd` gives is its own, open and the same descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
