//! Warnings of what else lays claim to a redirected port. Nothing here changes anything.

#![forbid(unsafe_code)]

pub mod firewall;
pub mod listener;

use std::collections::BTreeSet;

use rprox_common::Protocol;
use tracing::{debug, warn};

use super::config::Settings;
use super::rule::protocol_name;

/// A port of a protocol.
pub type Port = (Protocol, u16);

/// Warns, in the log, of listeners on FROM ports and of firewall rules that redirect them already.
pub fn warn_of_all(settings: &Settings) {
    let ports: BTreeSet<Port> = settings
        .interfaces
        .iter()
        .flat_map(|(_, policy)| policy.rules.as_slice())
        .map(|rule| (rule.protocol, rule.from))
        .collect();
    let interfaces: Vec<&str> = settings.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    match listener::find(&ports) {
        Ok(found) => {
            for listener in found {
                warn!(
                    "{listener} listens on port {}/{}: what arrives there by {} no longer reaches it",
                    listener.port.1,
                    protocol_name(listener.port.0),
                    interfaces.join(", ")
                );
            }
        }
        Err(error) => debug!("looking for listeners: {error}"),
    }
    for rule in firewall::find(&ports) {
        warn!(
            "port {}/{} is redirected by a firewall rule already: {}; rprox comes before it, so it only confuses. Remove it with: {}",
            rule.port.1,
            protocol_name(rule.port.0),
            rule.text,
            rule.removal
        );
    }
}
