//! Finds TCP sockets that are bound to a port and don't listen yet. `/proc/net` has no such sockets; `sock_diag(7)` tells them since
//! Linux 6.8, and older kernels nobody.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::diag::{self, Found};

/// `TCP_BOUND_INACTIVE` of `include/net/tcp_states.h`.
const BOUND_INACTIVE: u32 = 13;

/// The TCP sockets of this network namespace that are bound to one of `ports` and don't listen, as far as the kernel tells.
#[must_use]
pub fn find(ports: &BTreeSet<u16>) -> Vec<Found> {
    diag::find(BOUND_INACTIVE, ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_without_an_error() {
        assert_eq!(find(&BTreeSet::new()), []);
    }
}
