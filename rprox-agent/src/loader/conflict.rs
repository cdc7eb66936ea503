//! What else lays claim to a redirected port: listeners, and firewall rules. Nothing here changes anything.

#![forbid(unsafe_code)]

pub mod bound;
mod diag;
pub mod firewall;
pub mod input;
pub mod listener;
mod listing;
pub mod mptcp;
pub mod outgoing;
pub mod unprivileged;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use rprox_common::Protocol;
use tracing::{debug, warn};

use self::firewall::FirewallRule;
use self::listener::Listener;
use self::outgoing::Side;
use super::config::{Policy, Settings};
use super::mode::{Mode, Shape};
use super::owner::Owner;
use super::pins::Pins;
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
    /// A process listens on it that is not the owner's, who is granted it.
    Held {
        /// Who and where.
        listener: Listener,
        /// The owner.
        owner: u32,
    },
    /// A firewall rule in force redirects it.
    Rule {
        /// The rule.
        rule: FirewallRule,
        /// How the port is redirected; `None` on no interface that the rule is for.
        mode: Option<Mode>,
    },
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
            Self::Held { listener, owner } => write!(
                f,
                "{listener} of user {} listens on port {}: the owner, user {owner}, can't until it ends",
                listener.user,
                port(listener.port)
            ),
            Self::Rule { rule, mode } => {
                let so = match mode {
                    Some(Mode::Rewrite) => "rprox comes before it, so it only confuses",
                    Some(Mode::Steer) => {
                        "it comes before mode steer, and breaks its connections; `--mode rewrite` comes before it"
                    }
                    Some(Mode::Grant) => "the owner's listener there gets none of them",
                    None => "it is for another interface",
                };
                let FirewallRule { text, removal, .. } = rule;
                let port = port(rule.port);
                write!(
                    f,
                    "port {port} is redirected by a firewall rule already: {text}; {so}. Remove it with: {removal}"
                )
            }
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

/// Warns in the log of every claim on what is attached, and of TO ports that may be taken.
pub fn warn_of_all(settings: &Settings) {
    let attached = |interface: &str, _: &Policy| Shape::noted(&Pins::new(&settings.bpffs, interface)).mode;
    for claim in claims(settings, attached) {
        if !matches!(claim, Claim::Rule { mode: None, .. }) {
            warn!("{claim}");
        }
    }
    for (interface, policy) in &settings.interfaces {
        let rules = policy.rules.as_slice();
        match attached(interface, policy) {
            Mode::Steer => {
                if let Some(hindrance) = mptcp::hindrance(rules) {
                    warn!("{interface}: {hindrance}: connections are refused; {}", mptcp::REMEDY);
                }
            }
            Mode::Grant => {
                if let Some(warning) = unprivileged::warning(rules) {
                    warn!("{interface}: {warning}");
                }
            }
            Mode::Rewrite => {}
        }
    }
    let rules = settings.interfaces.iter().flat_map(|(_, policy)| policy.rules.as_slice());
    let to = rules.map(|rule| rule.to).collect();
    let from = settings.interfaces.iter().flat_map(|(interface, policy)| {
        outgoing::changed(policy.rules.as_slice(), attached(interface, policy))
    });
    let warnings = [outgoing::warning(&to, Side::To), outgoing::warning(&from.collect(), Side::From)];
    for warning in warnings.into_iter().flatten() {
        warn!("{warning}");
    }
}

/// Everything that lays claim to a FROM port of `settings`; `mode` says how an interface is or would be served.
#[must_use]
pub fn claims(settings: &Settings, mode: impl Fn(&str, &Policy) -> Mode) -> Vec<Claim> {
    let mut served = Vec::new();
    for (interface, policy) in &settings.interfaces {
        let mode = mode(interface, policy);
        let served_port = |rule: &Rule| Served {
            port: (rule.protocol, rule.from),
            interface,
            // UDP rules are never steered.
            mode: if mode == Mode::Steer && rule.protocol == Protocol::Udp { Mode::Rewrite } else { mode },
            owner: policy.owner.and_then(Owner::user),
        };
        served.extend(policy.rules.as_slice().iter().map(served_port));
    }
    let ports: BTreeSet<Port> = served.iter().map(|served| served.port).collect();
    let listeners = listener::find(&ports).unwrap_or_else(|error| {
        debug!("looking for listeners: {error}");
        BTreeSet::new()
    });
    let mut claims: Vec<Claim> =
        listeners.into_iter().flat_map(|listener| claims_of(&listener, &served)).collect();
    claims.extend(firewall::find(&ports).into_iter().map(|rule| {
        let concerned =
            served.iter().filter(|served| served.port == rule.port && rule.is_for(served.interface));
        // Of several modes the one that gets on with it worst.
        let mode = concerned.map(|served| served.mode).max_by_key(|mode| *mode != Mode::Rewrite);
        Claim::Rule { rule, mode }
    }));
    claims.extend(firewall::find_saved(&ports).into_iter().map(Claim::Saved));
    claims
}

/// A FROM port of an interface.
struct Served<'a> {
    port: Port,
    interface: &'a str,
    mode: Mode,
    owner: Option<u32>,
}

/// What `listener` claims of what is `served`.
fn claims_of(listener: &Listener, served: &[Served<'_>]) -> Vec<Claim> {
    let own = served.iter().filter(|served| served.port == listener.port);
    let (granted, redirected): (Vec<_>, Vec<_>) = own.partition(|served| served.mode == Mode::Grant);
    let mut claims = Vec::new();
    if !redirected.is_empty() {
        let interfaces: Vec<&str> = redirected.iter().map(|served| served.interface).collect();
        claims.push(Claim::Listener { listener: listener.clone(), interfaces: interfaces.join(", ") });
    }
    let owner = granted.iter().filter_map(|served| served.owner).find(|owner| *owner != listener.user);
    claims.extend(owner.map(|owner| Claim::Held { listener: listener.clone(), owner }));
    claims
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
            Claim::Rule { rule, .. } | Claim::Saved(rule) => Some(rule),
            Claim::Listener { .. } | Claim::Held { .. } => None,
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
