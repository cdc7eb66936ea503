//! How many files the process may have open: each connection is one.

#![forbid(unsafe_code)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::Limits;

/// How many it may have open at most; `None`: any number.
///
/// That is the hard limit. The soft one, of 1024 nearly everywhere, is for programs that call `select`, and who does not raises it
/// (systemd, `file-hierarchy` and `systemd.exec(5)`).
#[must_use]
pub fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// How many are used where there are so many connections: a client's and one to an upstream for each.
#[must_use]
pub fn wanted(connections: usize) -> u64 {
    (connections as u64).saturating_mul(2)
}

/// Raises what the process may have open to the most, and says so where that is too few for the limits.
pub fn raise(limits: &Limits) {
    let most = most();
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!(%error, "the soft limit on open files stays as it is");
    }
    let wanted = wanted(limits.connections);
    if let Some(most) = most
        && most < wanted
    {
        tracing::warn!(
            "the process may open {most} files, and limits.connections stands for up to {wanted}: raise LimitNOFILE (ulimit -Hn)"
        );
    }
}
