//! The rule table: for each protocol and port, what the rules say of it.
//!
//! The table is a plain array with an entry for every port, so a look-up costs the same for one rule as for ten thousand.
//! Each entry holds two generations of the rules. [`State`] names the one in force: a loader writes the other and then switches, so
//! that the programs see either the old rules or the new ones, whatever happens in between.

use crate::MAX_RULES;

/// A transport protocol that rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Protocol {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
}

/// The entries of the rule table: two protocols of 65,536 ports.
pub const PORT_TABLE_LEN: u32 = 1 << 17;

/// Where the rule table has the entry for a port (in host order).
#[inline(always)]
#[must_use]
pub const fn port_index(protocol: Protocol, port: u16) -> u32 {
    ((protocol as u32) << 16) | port as u32
}

/// What the rules say of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortKind {
    /// No rule names it. An entry of zeroes says so.
    None = 0,
    /// It is a rule's FROM; the peer is TO.
    From = 1,
    /// It is a rule's TO; the peer is FROM.
    To = 2,
}

/// What one generation of the rules says of a port, in one word: the [`PortKind`], the rule's place and its other port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PortEntry(u32);

impl PortEntry {
    const KIND: u32 = 0b11;
    const RULE_SHIFT: u32 = 2;
    const PEER_SHIFT: u32 = 16;

    /// An entry of a port that `rule`, which is below [`MAX_RULES`], names, with the rule's other port in host order.
    #[must_use]
    pub const fn new(kind: PortKind, rule: u16, peer: u16) -> Self {
        let rule = rule as u32 % MAX_RULES;
        Self(kind as u32 | rule << Self::RULE_SHIFT | (peer.to_be() as u32) << Self::PEER_SHIFT)
    }

    /// What the rules say of the port.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> PortKind {
        match self.0 & Self::KIND {
            1 => PortKind::From,
            2 => PortKind::To,
            _ => PortKind::None,
        }
    }

    /// The rule's place in the per-rule counters.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a place is below MAX_RULES")]
    pub const fn rule(self) -> u16 {
        ((self.0 >> Self::RULE_SHIFT) % MAX_RULES) as u16
    }

    /// The rule's other port, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn peer(self) -> u16 {
        (self.0 >> Self::PEER_SHIFT) as u16
    }
}

/// An entry of the rule table: what each generation says of a port. All zeroes where neither has a rule for it, which one look
/// tells whatever generation is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct PortEntries(pub [PortEntry; 2]);

impl PortEntries {
    /// The bits of which one is set where either has the port as TO, in both as one word.
    pub const TO: u64 = (PortKind::To as u64) << 32 | PortKind::To as u64;
}

/// What holds for the whole attachment, in one word so that it changes as one: the generation of rules in force,
/// whether direct connections are allowed, and whether TCP is left to `steer`, or new connections are still rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(u64);

impl State {
    const GENERATION: u64 = 1;
    const ALLOW_DIRECT: u64 = 2;
    const LEFT_TO_STEER: u64 = 4;
    const STILL_REWRITES: u64 = 8;

    /// A state with `generation` (0 or 1) in force.
    #[must_use]
    pub const fn new(generation: u32, allow_direct: bool) -> Self {
        Self((generation as u64 & Self::GENERATION) | if allow_direct { Self::ALLOW_DIRECT } else { 0 })
    }

    /// The same with TCP left to `steer`: the programs in the packets' path have no business with it, and direct connections are
    /// refused where the socket is chosen.
    #[must_use]
    pub const fn left_to_steer(self) -> Self {
        Self(self.0 | Self::LEFT_TO_STEER)
    }

    /// The same while mode `rewrite` goes over to another: connections still begin by it.
    #[must_use]
    pub const fn still_rewriting(self) -> Self {
        Self(self.0 | Self::STILL_REWRITES)
    }

    /// The generation of rules in force, 0 or 1.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 & Self::GENERATION) as u32
    }

    /// Whether direct connections to a TO port are let through.
    #[inline(always)]
    #[must_use]
    pub const fn allow_direct(self) -> bool {
        self.0 & Self::ALLOW_DIRECT != 0
    }

    /// Whether TCP is left to `steer`.
    #[inline(always)]
    #[must_use]
    pub const fn is_left_to_steer(self) -> bool {
        self.0 & Self::LEFT_TO_STEER != 0
    }

    /// Whether connections still begin by `rewrite`, of which the programs in place serve only those that are there.
    #[inline(always)]
    #[must_use]
    pub const fn still_rewrites(self) -> bool {
        self.0 & Self::STILL_REWRITES != 0
    }
}
