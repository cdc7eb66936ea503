//! Finds listeners that speak MPTCP. Their TCP socket is one below another, and no such socket can be put where mode `steer` finds
//! who listens. Go's `net.Listen` makes such listeners since Go 1.24, unasked.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use rprox_common::Protocol;

use super::diag;
use crate::loader::rule::Rule;

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: u32 = 10;

/// What to do about one.
pub const REMEDY: &str = "attach by `--mode auto` or `--mode rewrite`, or have it speak plain TCP (a program in Go: \
     `GODEBUG=multipathtcp=0` in its environment)";

/// What keeps mode `steer` from serving `rules`, if such a listener on a TO port does.
#[must_use]
pub fn hindrance(rules: &[Rule]) -> Option<String> {
    let tcp: BTreeSet<u16> =
        rules.iter().filter(|rule| rule.protocol == Protocol::Tcp).map(|rule| rule.to).collect();
    let listener = diag::find(LISTEN, &tcp).into_iter().find(|socket| socket.is_mptcp)?;
    Some(format!(
        "who listens on port {} speaks MPTCP, and the kernel lets nobody steer to such a socket",
        listener.port
    ))
}
