//! Modes: how the kernel side does it, and what each takes.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use rprox_common::{Protocol, RewriteTcp};
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::config::Policy;
use super::conflict::{Port, firewall, mptcp};
use super::linked::Linked;
use super::netlink::Device;
use super::owner::Owner;
use super::pins::{NOTE_LEN, Pins};

/// How the kernel side does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Ports are changed in the packets.
    Rewrite,
    /// TCP connections are given to the socket that listens on TO; UDP is as in `rewrite`.
    Steer,
    /// The owner may bind FROM itself, and nothing is redirected.
    Grant,
}

impl Mode {
    /// Whether the packets of rules for `protocol` pass a program that counts them.
    #[must_use]
    pub fn counts_packets(self, protocol: Protocol) -> bool {
        match self {
            Self::Rewrite => true,
            Self::Steer => protocol == Protocol::Udp,
            Self::Grant => false,
        }
    }
}

/// The mode that an operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeChoice {
    /// `steer` where kernel and interface allow it, `rewrite` otherwise.
    #[default]
    Auto,
    /// Change ports in the packets.
    Rewrite,
    /// Give TCP connections to the socket that listens on TO; UDP is as in `rewrite`.
    Steer,
    /// Let the owner bind FROM itself, and redirect nothing.
    Grant,
}

/// What an attachment is to consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The mode.
    pub mode: Mode,
    /// Why this mode.
    pub reason: String,
    /// The owner.
    pub owner: Owner,
    /// Whether the programs in the packets' path belong to it.
    pub has_packet_programs: bool,
}

/// Why a mode was taken that the operator named.
const ASKED_FOR: &str = "asked for";

impl Shape {
    /// What `policy` asks for on `device`.
    #[must_use]
    pub fn of(policy: &Policy, device: &Device) -> Self {
        let (mode, reason) = match policy.mode {
            ModeChoice::Rewrite => (Mode::Rewrite, ASKED_FOR.to_owned()),
            ModeChoice::Steer => (Mode::Steer, ASKED_FOR.to_owned()),
            ModeChoice::Grant => (Mode::Grant, ASKED_FOR.to_owned()),
            ModeChoice::Auto => choose(policy, device),
        };
        let has_packet_programs = match mode {
            Mode::Rewrite => true,
            Mode::Steer => policy.rules.as_slice().iter().any(|rule| rule.protocol == Protocol::Udp),
            Mode::Grant => false,
        };
        Self { mode, reason, owner: policy.owner.unwrap_or(Owner::Any), has_packet_programs }
    }

    /// The same by `rewrite`, since the kernel refused `steer`.
    #[must_use]
    pub fn by_rewrite(self, refusal: &dyn fmt::Display) -> Self {
        let reason = format!("steer was refused: {refusal}");
        Self { mode: Mode::Rewrite, reason, has_packet_programs: true, ..self }
    }

    /// The same where `tcp` is to be done in the packets' path.
    #[must_use]
    pub fn doing(mut self, tcp: RewriteTcp) -> Self {
        self.has_packet_programs |= self.mode == Mode::Steer && tcp != RewriteTcp::None;
        self
    }

    /// Whether any program of it is on the interface, or for it alone.
    #[must_use]
    pub fn is_for_interface(&self) -> bool {
        self.mode != Mode::Grant
    }

    /// Whether `linked` belongs to it.
    #[must_use]
    pub fn has(&self, linked: Linked) -> bool {
        match linked {
            Linked::Bind4 | Linked::Bind6 => self.owner != Owner::Any,
            Linked::Listeners | Linked::Steer => self.mode == Mode::Steer,
        }
    }

    /// What the packet programs on `device` do with TCP, where the attachment was of mode `before`, if any, and did `done` then.
    #[must_use]
    pub fn tcp(&self, device: &Device, before: Option<Mode>, done: RewriteTcp) -> RewriteTcp {
        match (self.mode, before) {
            // Its connections aren't those that `steer` looks for, and nobody else refuses direct ones.
            (Mode::Steer, _) if device.controller.is_some() => RewriteTcp::Begun,
            (Mode::Steer | Mode::Grant, None) => RewriteTcp::None,
            (Mode::Steer | Mode::Grant, Some(_)) if done == RewriteTcp::None => done,
            // Connections that were rewritten live on.
            (Mode::Steer | Mode::Grant, Some(_)) => RewriteTcp::Begun,
            // Connections that were steered live on.
            (Mode::Rewrite, Some(Mode::Steer)) => RewriteTcp::NotSteered,
            (Mode::Rewrite, Some(Mode::Rewrite)) if done == RewriteTcp::NotSteered => done,
            (Mode::Rewrite, _) => RewriteTcp::All,
        }
    }

    /// Why `--mode auto`, which took `steer` for `policy`, would not take it on `device` as things are now.
    #[must_use]
    pub fn overtaken(&self, policy: &Policy, device: &Device) -> Option<String> {
        if self.is_steer_by_auto(policy) { hindrance(policy, device) } else { None }
    }

    /// Whether `--mode auto` took `steer` for `policy`.
    #[must_use]
    pub fn is_steer_by_auto(&self, policy: &Policy) -> bool {
        self.mode == Mode::Steer && policy.mode == ModeChoice::Auto
    }

    /// Writes mode, reason and owner down.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn note(&self, pins: &Pins) -> Result<(), super::pins::PinError> {
        pins.note("mode", &self.mode.to_string())?;
        // Whom `steer` was refused by may be many.
        let reason = &self.reason;
        pins.note("reason", &reason[..reason.floor_char_boundary(NOTE_LEN)])?;
        pins.note("owner", &self.owner.to_string())?;
        pins.note("packet-programs", if self.has_packet_programs { "yes" } else { "no" })
    }

    /// What was written down. An attachment of a build that knew no modes is in mode `rewrite`.
    #[must_use]
    pub fn noted(pins: &Pins) -> Self {
        Self {
            mode: pins.noted("mode").and_then(|mode| mode.parse().ok()).unwrap_or(Mode::Rewrite),
            reason: pins.noted("reason").unwrap_or_default(),
            owner: pins.noted("owner").and_then(|owner| owner.parse().ok()).unwrap_or(Owner::Any),
            has_packet_programs: pins.noted("packet-programs").is_none_or(|has| has == "yes"),
        }
    }
}

/// What keeps `steer` from serving `policy` on `device`, of what may come and go under an attachment.
fn hindrance(policy: &Policy, device: &Device) -> Option<String> {
    const CONTROLLED: &str =
        "it belongs to a bridge, bond or VRF, which the kernel takes for the interface of its connections";
    if device.controller.is_some() {
        return Some(CONTROLLED.to_owned());
    }
    mptcp::hindrance(policy.rules.as_slice())
}

/// The mode for `--mode auto`, and why.
fn choose(policy: &Policy, device: &Device) -> (Mode, String) {
    if !policy.rules.as_slice().iter().any(|rule| rule.protocol == Protocol::Tcp) {
        return (Mode::Rewrite, "there is no TCP rule to steer by".to_owned());
    }
    if let Some(reason) = hindrance(policy, device) {
        return (Mode::Rewrite, reason);
    }
    if let Err(error) = cgroup::root() {
        return (Mode::Rewrite, format!("steer was refused: {error}"));
    }
    // Of the modes only `rewrite` comes before the firewall.
    let tcp = policy.rules.as_slice().iter().filter(|rule| rule.protocol == Protocol::Tcp);
    let from: BTreeSet<Port> = tcp.map(|rule| (rule.protocol, rule.from)).collect();
    if let Some(rule) = firewall::find(&from).into_iter().find(|rule| rule.is_for(&device.name)) {
        let reason =
            format!("a firewall rule would redirect port {} before steer can: {}", rule.port.1, rule.text);
        return (Mode::Rewrite, reason);
    }
    (Mode::Steer, "kernel and interface allow it".to_owned())
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rewrite => "rewrite",
            Self::Steer => "steer",
            Self::Grant => "grant",
        })
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "rewrite" => Ok(Self::Rewrite),
            "steer" => Ok(Self::Steer),
            "grant" => Ok(Self::Grant),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_began_otherwise_are_looked_for_only_where_there_can_be_any() {
        let eth0 = Device::ethernet(2, "eth0");
        let shape =
            |mode| Shape { mode, reason: String::new(), owner: Owner::Any, has_packet_programs: false };
        let (rewrite, steer) = (shape(Mode::Rewrite), shape(Mode::Steer));
        assert_eq!(steer.tcp(&eth0, None, RewriteTcp::All), RewriteTcp::None);
        for before in [Mode::Steer, Mode::Grant] {
            assert_eq!(steer.tcp(&eth0, Some(before), RewriteTcp::None), RewriteTcp::None);
            assert_eq!(steer.tcp(&eth0, Some(before), RewriteTcp::Begun), RewriteTcp::Begun);
        }
        assert_eq!(steer.tcp(&eth0, Some(Mode::Rewrite), RewriteTcp::All), RewriteTcp::Begun);
        // After a change that was cut short, whose globals nobody knows.
        assert_eq!(steer.tcp(&eth0, Some(Mode::Steer), RewriteTcp::All), RewriteTcp::Begun);
        assert_eq!(rewrite.tcp(&eth0, Some(Mode::Steer), RewriteTcp::None), RewriteTcp::NotSteered);
        let mut port = eth0.clone();
        port.controller = Some(3);
        assert_eq!(steer.tcp(&port, None, RewriteTcp::All), RewriteTcp::Begun);
        assert!(steer.clone().doing(RewriteTcp::Begun).has_packet_programs);
        assert!(!steer.doing(RewriteTcp::None).has_packet_programs);
    }
}
