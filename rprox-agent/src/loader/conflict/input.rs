//! Whether a firewall lets in what is redirected: the rules that a connection's first packet meets before it gets to a socket.
//!
//! Only what is sure is told. A rule decides if each of its conditions is understood and holds; where one that isn't may let the
//! packet in, nothing is said.

#![forbid(unsafe_code)]

mod iptables;
mod nftables;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Port, listing};
use crate::loader::rule::protocol_name;

/// Chains that jump to one another deeper than this are not followed, and may let in.
const DEEPEST: usize = 16;

/// The first packet of a connection from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet<'a> {
    /// The port that it is for, as the firewall sees it.
    pub port: Port,
    /// The interface that it comes in by.
    pub interface: &'a str,
}

/// What refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule, or the chain whose policy it is, as its tool names it.
    pub rule: String,
    /// The command that lets it in.
    pub remedy: String,
}

/// Whether something can be said of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Holds,
    Fails,
    Unknown,
}

impl Condition {
    fn new(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }

    fn negated_if(self, is_negated: bool) -> Self {
        match self {
            Self::Holds if is_negated => Self::Fails,
            Self::Fails if is_negated => Self::Holds,
            as_it_is => as_it_is,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fails, _) | (_, Self::Fails) => Self::Fails,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Holds, Self::Holds) => Self::Holds,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Refuse,
    Return,
    Jump(String),
    Goto(String),
    /// On to the next rule.
    None,
}

/// A rule, as far as it concerns the packet.
#[derive(Debug)]
struct Step {
    condition: Condition,
    verdict: Verdict,
    text: String,
}

type Chains = BTreeMap<String, Vec<Step>>;

/// What becomes of the packet in a chain.
#[derive(Debug, PartialEq, Eq)]
enum Fate<'a> {
    /// It is let in, or may be.
    In,
    /// By this rule.
    Refused(&'a str),
    /// The chain says nothing of it.
    Undecided,
}

fn fate<'a>(chains: &'a Chains, name: &str, depth: usize) -> Fate<'a> {
    if depth == DEEPEST {
        return Fate::In;
    }
    let steps = chains.get(name).map(Vec::as_slice).unwrap_or_default();
    for Step { condition, verdict, text } in steps {
        let is_sure = match condition {
            Condition::Fails => continue,
            Condition::Holds => true,
            Condition::Unknown => false,
        };
        let decided = match verdict {
            Verdict::Refuse if is_sure => Fate::Refused(text),
            Verdict::Return if is_sure => return Fate::Undecided,
            // Behind a return that is not sure, what comes next may not be for it.
            Verdict::Accept | Verdict::Return => Fate::In,
            Verdict::Jump(to) | Verdict::Goto(to) => fate(chains, to, depth + 1),
            Verdict::Refuse | Verdict::None => Fate::Undecided,
        };
        match decided {
            Fate::In => return Fate::In,
            Fate::Refused(rule) if is_sure => return Fate::Refused(rule),
            Fate::Undecided if matches!(verdict, Verdict::Goto(_)) => {
                return if is_sure { Fate::Undecided } else { Fate::In };
            }
            Fate::Refused(_) | Fate::Undecided => {}
        }
    }
    Fate::Undecided
}

/// What iptables and nftables list, of which any number of packets can be asked.
#[derive(Debug)]
pub struct Input {
    /// Each with the command that edits what it lists.
    iptables: Vec<(&'static str, String)>,
    nftables: Option<Value>,
}

impl Input {
    /// Reads what is in force; what can't be had says nothing.
    #[must_use]
    pub fn read() -> Self {
        Self {
            iptables: listing::iptables("filter").collect(),
            nftables: listing::nftables().and_then(|text| nftables::parse(&text)),
        }
    }

    /// What refuses `packet`, if something surely does.
    #[must_use]
    pub fn refusal(&self, packet: Packet<'_>) -> Option<Refusal> {
        let mut iptables = self.iptables.iter();
        iptables.find_map(|(edit, text)| iptables::refusal(text, edit, packet)).or_else(|| {
            // iptables-nft's own chains are in nftables too, in words that only iptables knows.
            self.nftables.as_ref().and_then(|ruleset| nftables::refusal(ruleset, packet))
        })
    }
}

/// The packet as both tools name it: `tcp` and the port's number.
fn named(packet: Packet<'_>) -> (&'static str, u16) {
    (protocol_name(packet.port.0), packet.port.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(condition: Condition, verdict: Verdict) -> Step {
        Step { condition, verdict, text: "this".to_owned() }
    }

    #[test]
    fn only_what_is_sure_refuses() {
        use Condition::{Fails, Holds, Unknown};
        let of = |steps: Vec<Step>| {
            let inner = vec![step(Holds, Verdict::Refuse)];
            let chains = Chains::from([("input".to_owned(), steps), ("inner".to_owned(), inner)]);
            matches!(fate(&chains, "input", 0), Fate::Refused("this"))
        };
        let jump = || Verdict::Jump("inner".to_owned());
        assert!(of(vec![step(Holds, Verdict::Refuse)]));
        assert!(of(vec![step(Holds, Verdict::None), step(Holds, jump())]));
        assert!(of(vec![step(Fails, Verdict::Accept), step(Holds, Verdict::Refuse)]));
        assert!(!of(vec![step(Unknown, Verdict::Accept), step(Holds, Verdict::Refuse)]));
        assert!(!of(vec![step(Unknown, Verdict::Return), step(Holds, Verdict::Refuse)]));
        assert!(!of(vec![step(Unknown, Verdict::Refuse)]));
        assert!(!of(vec![step(Unknown, jump())]));
        assert!(!of(vec![step(Holds, Verdict::Return), step(Holds, Verdict::Refuse)]));
        assert!(!of(vec![step(Unknown, Verdict::Goto("none".to_owned())), step(Holds, Verdict::Refuse)]));
        // A chain that jumps to itself ends too.
        let looped =
            Chains::from([("input".to_owned(), vec![step(Holds, Verdict::Jump("input".to_owned()))])]);
        assert_eq!(fate(&looped, "input", 0), Fate::In);
    }
}
