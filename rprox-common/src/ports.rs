//! The rule table: for each protocol and port, what the rules say of it.
//!
//! The table is a plain array with an entry for every port, so a look-up costs the same for one rule as for ten thousand.
//! It holds two generations of the rules. [`State`] names the one in force: a loader writes the other and then switches, so
//! that the programs see either the old rules or the new ones, whatever happens in between.

/// A transport protocol that rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Protocol {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
}

/// The entries of the rule table: two generations of two protocols of 65,536 ports.
pub const PORT_TABLE_LEN: u32 = 1 << 18;

/// Where the rule table has the entry for a port (in host order) in a generation (0 or 1).
#[inline(always)]
#[must_use]
pub const fn port_index(generation: u32, protocol: Protocol, port: u16) -> u32 {
    ((generation & 1) << 17) | ((protocol as u32) << 16) | port as u32
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

/// An entry of the rule table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortEntry {
    /// A [`PortKind`] as a number.
    kind: u8,
    reserved: [u8; 3],
    /// The rule's place in the per-rule counters.
    pub rule: u16,
    /// The rule's other port, in network order.
    pub peer: u16,
}

impl PortEntry {
    /// An entry of a port that `rule` names, with the rule's other port in host order.
    #[must_use]
    pub const fn new(kind: PortKind, rule: u16, peer: u16) -> Self {
        Self { kind: kind as u8, reserved: [0; 3], rule, peer: peer.to_be() }
    }

    /// What the rules say of the port.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> PortKind {
        match self.kind {
            1 => PortKind::From,
            2 => PortKind::To,
            _ => PortKind::None,
        }
    }
}

/// What holds for the whole attachment, in one word so that it changes as one: the generation of rules in force, and
/// whether direct connections are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(u64);

impl State {
    const GENERATION: u64 = 1;
    const ALLOW_DIRECT: u64 = 2;

    /// A state with `generation` (0 or 1) in force.
    #[must_use]
    pub const fn new(generation: u32, allow_direct: bool) -> Self {
        Self((generation as u64 & Self::GENERATION) | if allow_direct { Self::ALLOW_DIRECT } else { 0 })
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
}
