//! What the port guard can't keep out any more: who holds a TO port already when the loader attaches.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::iter;

use procfs::ProcError;
use rprox_common::Protocol;
use thiserror::Error;

use super::conflict::{Port, bound, listener};
use super::owner::Owner;
use super::rule::{Rule, protocol_name};

/// Why the ports can't be guarded.
#[derive(Debug, Error)]
pub enum GuardError {
    /// Somebody else has one.
    #[error(
        "port {port}/{protocol} is held by {holder} of user {user}, and only user {owner} may hold it (--owner); end that process, \
         or name its user as the owner"
    )]
    Held {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: &'static str,
        /// The process.
        holder: String,
        /// Its user.
        user: u32,
        /// The owner.
        owner: u32,
    },
    /// The sockets can't be listed.
    #[error("looking for who holds the TO ports: {0}")]
    Sockets(#[from] ProcError),
}

/// Makes sure that the TO ports of `rules` are nobody's but the owner's.
///
/// # Errors
///
/// One is held by somebody else.
pub fn check_holders(rules: &[Rule], owner: Owner) -> Result<(), GuardError> {
    let Owner::User(owner) = owner else { return Ok(()) };
    let ports: BTreeSet<Port> = rules.iter().map(|rule| (rule.protocol, rule.to)).collect();
    let tcp = ports.iter().filter(|port| port.0 == Protocol::Tcp).map(|port| port.1).collect();
    let sockets =
        listener::sockets(&ports)?.into_iter().map(|socket| (socket.port, socket.user, socket.inode));
    let bound = bound::find(&tcp).into_iter();
    let bound = bound.map(|bound| ((Protocol::Tcp, bound.port), bound.user, bound.inode));
    let Some((port, user, inode)) = sockets.chain(bound).find(|(_, user, _)| *user != owner) else {
        return Ok(());
    };
    let holder = listener::holders(iter::once(inode))?.into_iter().next();
    Err(GuardError::Held {
        port: port.1,
        protocol: protocol_name(port.0),
        holder: holder.map_or_else(
            || "a process that can't be told".to_owned(),
            |holder| format!("{} (pid {})", holder.name, holder.pid),
        ),
        user,
        owner,
    })
}
