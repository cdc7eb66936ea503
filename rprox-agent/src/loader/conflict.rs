//! What else lays claim to a redirected port: listeners, and firewall rules. Nothing here changes anything.

#![forbid(unsafe_code)]

pub mod firewall;
pub mod listener;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use rprox_common::Protocol;
use tracing::{debug, warn};

use self::firewall::FirewallRule;
use self::listener::Listener;
use super::config::Settings;
use super::rule::{Rule, protocol_name};

/// A port of a protocol.
pub type Port = (Protocol, u16);

/// Something that lays claim to a FROM port.
#[derive(Clone, Debug)]
pub enum Claim {
    /// A process listens on it.
    Listener {
        /// Who and where.
        listener: Listener,
        /// The interfaces by which nothing reaches it any more.
        interfaces: String,
    },
    /// A firewall rule in force redirects it.
    Rule(FirewallRule),
    /// A line of a file redirects it once the file is loaded, which is at boot as a rule.
    Saved(FirewallRule),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |(protocol, number): Port| format!("{number}/{}", protocol_name(protocol));
        match self {
            Self::Listener { listener, interfaces } => write!(
                f,
                "{listener} listens on port {}: what arrives there by {interfaces} no longer reaches it",
                port(listener.port)
            ),
            Self::Rule(rule) => write!(
                f,
                "port {} is redirected by a firewall rule already: {}; rprox comes before it, so it only confuses. Remove it \
                 with: {}",
                port(rule.port),
                rule.text,
                rule.removal
            ),
            Self::Saved(rule) => {
                write!(
                    f,
                    "port {} is redirected again at boot by {}; {}",
                    port(rule.port),
                    rule.text,
                    rule.removal
                )
            }
        }
    }
}

/// Warns of every claim in the log.
pub fn warn_of_all(settings: &Settings) {
    for claim in claims(settings) {
        warn!("{claim}");
    }
}

/// Everything that lays claim to a FROM port of `settings`.
#[must_use]
pub fn claims(settings: &Settings) -> Vec<Claim> {
    let ports: BTreeSet<Port> = settings
        .interfaces
        .iter()
        .flat_map(|(_, policy)| policy.rules.as_slice())
        .map(|rule| (rule.protocol, rule.from))
        .collect();
    let interfaces: Vec<&str> = settings.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    let listeners = listener::find(&ports).unwrap_or_else(|error| {
        debug!("looking for listeners: {error}");
        BTreeSet::new()
    });
    let listeners =
        listeners.into_iter().map(|listener| Claim::Listener { listener, interfaces: interfaces.join(", ") });
    let rules = firewall::find(&ports).into_iter().map(Claim::Rule);
    listeners.chain(rules).chain(firewall::find_saved(&ports).into_iter().map(Claim::Saved)).collect()
}

/// Writes `claims`, and what to run to have rprox in the place of the firewall rules among them.
///
/// # Errors
///
/// What writing gave.
pub fn write_claims(mut out: impl Write, claims: &[Claim], settings: &Settings) -> io::Result<()> {
    let interfaces: Vec<&str> = settings.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    if claims.is_empty() {
        return writeln!(out, "nothing is in the way on {}", interfaces.join(", "));
    }
    for claim in claims {
        writeln!(out, "{claim}")?;
    }
    let firewall: Vec<&FirewallRule> = claims
        .iter()
        .filter_map(|claim| match claim {
            Claim::Rule(rule) | Claim::Saved(rule) => Some(rule),
            Claim::Listener { .. } => None,
        })
        .collect();
    if firewall.is_empty() {
        return Ok(());
    }
    let mut named: BTreeSet<&str> = firewall.iter().filter_map(|rule| rule.interface.as_deref()).collect();
    if named.is_empty() {
        named.extend(interfaces);
    }
    let redirects: BTreeSet<_> =
        firewall.iter().filter_map(|rule| Some((rule.port.0, rule.port.1, rule.to?))).collect();
    // In mode `steer` the rules would still come first.
    let mut command = "rprox-loader attach --mode rewrite".to_owned();
    for name in named {
        _ = write!(command, " -i {name}");
    }
    for (protocol, from, to) in redirects {
        _ = write!(command, " -r {}", Rule { from, to, protocol });
    }
    writeln!(
        out,
        "\nTo have rprox do what these rules do, first run\n  {command}\nwhich takes the packets before they reach the rules, and \
         then remove the rules as said above. Connections that are open then may be reset, once; new ones find no gap."
    )
}
