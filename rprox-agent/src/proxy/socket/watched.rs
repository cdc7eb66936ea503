//! Descriptors that are watched for what comes.

#![allow(
    unsafe_code,
    reason = "the event loop keeps the descriptor's number, and has to be told that it stays open"
)]

use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells the operator that a connection is lost, since it can't be watched.
pub fn refused(error: &impl Display) {
    tracing::warn!(%error, "can't wait for a connection; fs.epoll.max_user_watches may be too low");
}

/// Has the event loop of this thread tell when there is something to read or to accept.
///
/// # Errors
///
/// When there is no memory for it.
pub fn for_reading(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: what an `OwnedFd` gives is its own, open and the same descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
