//! What the port guard can't keep out any more: who holds a TO port already when the loader attaches.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::iter;

use procfs::ProcError;
use rprox_common::Protocol;
use thiserror::Error;

use super::asked;
use super::config::Settings;
use super::conflict::{Port, bound, listener};
use super::host::Host;
use super::mode::Shape;
use super::owner::Owner;
use super::pins::Pins;
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
    /// Two interfaces have one for different users.
    #[error(
        "{interface} has port {port}/{protocol} for user {owner} and {other_interface} for user {other}: each port guard would refuse it \
         to the other's, so that nobody could listen there; name one owner for both (attach them together: `-i {interface} -i \
         {other_interface}`), or give them different TO ports"
    )]
    TwoOwners {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: &'static str,
        /// An interface.
        interface: String,
        /// Its owner.
        owner: u32,
        /// The other interface.
        other_interface: String,
        /// Its owner.
        other: u32,
    },
    /// The sockets can't be listed.
    #[error("looking for who holds the TO ports: {0}")]
    Sockets(#[from] ProcError),
}

/// Makes sure that no TO port of `settings` is for different users on different interfaces, those included that are `attached` already.
///
/// # Errors
///
/// One is.
pub fn check_owners(host: &Host<'_>, settings: &Settings, attached: &[Pins]) -> Result<(), GuardError> {
    let mut guarded: Vec<(&str, u32, Vec<Rule>)> = Vec::new();
    for (interface, policy) in &settings.interfaces {
        if let Some(Owner::User(owner)) = policy.owner {
            guarded.push((interface, owner, policy.rules.as_slice().to_vec()));
        }
    }
    for pins in attached {
        let is_chosen = settings.interfaces.iter().any(|(name, _)| name == pins.interface());
        // Another namespace's ports are others.
        let is_here = pins.noted_device().is_some_and(|device| device.netns == host.netns);
        if let (false, true, Owner::User(owner), Some(asked)) =
            (is_chosen, is_here, Shape::noted(pins).owner, asked::noted(pins))
        {
            guarded.push((pins.interface(), owner, asked.rules.as_slice().to_vec()));
        }
    }
    for (place, (interface, owner, rules)) in guarded.iter().enumerate() {
        for (other_interface, other, others) in guarded[..place].iter().filter(|(_, other, _)| other != owner)
        {
            let is_shared = |rule: &&Rule| {
                others.iter().any(|other| (other.protocol, other.to) == (rule.protocol, rule.to))
            };
            if let Some(rule) = rules.iter().find(is_shared) {
                return Err(GuardError::TwoOwners {
                    port: rule.to,
                    protocol: protocol_name(rule.protocol),
                    interface: (*interface).to_owned(),
                    owner: *owner,
                    other_interface: (*other_interface).to_owned(),
                    other: *other,
                });
            }
        }
    }
    Ok(())
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
