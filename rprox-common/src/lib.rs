//! What rprox's kernel programs and its loader share: the rule table, counters, addresses, limits, and the names of
//! programs and maps.
//!
//! Everything here is plain data with a fixed layout, since each side reads what the other wrote. A change to a layout
//! or to a map's meaning takes a new [`LAYOUT`].

#![no_std]
#![allow(clippy::inline_always, reason = "the kernel programs call these in a packet's way")]

mod address;
mod counters;
mod flow;
mod listener;
mod ports;
mod rewrite_tcp;

#[cfg(feature = "user")]
mod pod;

pub use address::{ADDRESS_SLOTS, Address, AddressSlot};
pub use counters::{AttachmentCounters, RuleCounters};
pub use flow::DirectFlow;
pub use listener::{
    ANY_OWNER, LISTENED_LEN, Listener, MAX_BOUND_SOCKETS, MAX_LISTENERS, MAX_LISTENERS_PER_ADDRESS,
};
pub use ports::{PORT_TABLE_LEN, PortEntries, PortEntry, PortKind, Protocol, State, port_index};
pub use rewrite_tcp::RewriteTcp;

/// The version of the maps' layout. It is part of the path that they are pinned under, so that a build never reads
/// maps of another layout.
pub const LAYOUT: u32 = 4;

/// The most redirect rules that one attachment takes; a power of two, which a [`PortEntry`] relies on.
pub const MAX_RULES: u32 = 16_384;

/// The rules that an attachment has room for, unless it is made with more: later rule changes reuse its maps.
pub const MIN_RULE_CAPACITY: u32 = 1_024;

/// The most local addresses that an attachment knows.
pub const MAX_LOCAL_ADDRESSES: u32 = 4_096;

/// The most direct flows that are remembered under `--direct allow`; beyond it the least recently used one goes.
pub const MAX_DIRECT_FLOWS: u32 = 65_536;

/// Program names, as in the object and (cut at 15 bytes) in `bpftool prog`.
pub mod program {
    /// Ingress: destination port FROM to TO.
    pub const INGRESS: &str = "rprox_ingress";
    /// Egress: source port TO back to FROM.
    pub const EGRESS: &str = "rprox_egress";
    /// `sk_lookup`: gives a connection to FROM to the socket that listens on TO.
    pub const STEER: &str = "rprox_steer";
    /// `sock_ops`: notes the sockets that listen on TO.
    pub const LISTENERS: &str = "rprox_listeners";
    /// `cgroup/bind4`: the port guard, and mode `grant`.
    pub const BIND4: &str = "rprox_bind4";
    /// `cgroup/bind6`: the same for IPv6 and dual-stack sockets.
    pub const BIND6: &str = "rprox_bind6";
}

/// Map names, as in the object and under the pin path.
pub mod map {
    /// Array of [`PortEntries`](crate::PortEntries), indexed by [`port_index`](crate::port_index).
    pub const PORTS: &str = "PORTS";
    /// Array of one [`State`](crate::State).
    pub const STATE: &str = "STATE";
    /// Hash of [`Address`](crate::Address) to `u8` (always 1): the addresses of this host.
    pub const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";
    /// Array of [`AddressSlot`](crate::AddressSlot), indexed by [`Address::slot`](crate::Address::slot): what answers for
    /// `LOCAL_ADDRESSES` as a rule.
    pub const ADDRESS_SLOTS: &str = "ADDRESS_SLOTS";
    /// Per-CPU array of [`RuleCounters`](crate::RuleCounters), indexed by [`PortEntry::rule`](crate::PortEntry::rule).
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// Per-CPU array of one [`AttachmentCounters`](crate::AttachmentCounters).
    pub const COUNTERS: &str = "COUNTERS";
    /// LRU hash of [`DirectFlow`](crate::DirectFlow) to `u8` (always 1): direct flows under `--direct allow`.
    pub const DIRECT_FLOWS: &str = "DIRECT_FLOWS";

    /// Ring buffer of log records, in aya-log's form and under its name.
    pub const LOGS: &str = "AYA_LOGS";
    /// Hash of [`Listener`](crate::Listener) to socket: those that listen on TO, for mode `steer`.
    pub const LISTENERS: &str = "LISTENERS";
    /// Array of `u64`, indexed by [`Listener::place`](crate::Listener::place): not 0 where a socket has been in `LISTENERS`. What is
    /// closed leaves it as it is.
    pub const LISTENED: &str = "LISTENED";

    /// LRU hash of socket cookie (`u64`) to user id (`u32`): who bound which socket to TO under the port guard.
    pub const BOUND_BY: &str = "BOUND_BY";

    /// Every map of an attachment, each pinned under its name.
    pub const ALL: [&str; 11] = [
        PORTS,
        STATE,
        LOCAL_ADDRESSES,
        ADDRESS_SLOTS,
        RULE_COUNTERS,
        COUNTERS,
        DIRECT_FLOWS,
        LOGS,
        LISTENERS,
        LISTENED,
        BOUND_BY,
    ];
}

/// Read-only globals of the kernel programs that the loader sets before it loads them.
pub mod global {
    /// `u32`: bytes of link-layer header before the network header: 14 on Ethernet and loopback, 0 on devices without one
    /// (tun, wireguard, ppp).
    pub const LINK_HEADER_LEN: &str = "LINK_HEADER_LEN";
    /// `u32`: of how many events worth a log line one gets it; 0 is none.
    pub const LOG_ONE_IN: &str = "LOG_ONE_IN";
    /// `u32`: the chosen interface's index, for mode `steer`.
    pub const INTERFACE: &str = "INTERFACE";
    /// `u64`: the cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub const NETNS_COOKIE: &str = "NETNS_COOKIE";
    /// `u32`: the owner's user id, for the port guard, mode `grant` and who may be steered to; [`ANY_OWNER`](crate::ANY_OWNER) where there
    /// is no guard.
    pub const OWNER: &str = "OWNER";
    /// `u32`: 1 in mode `grant`, else 0.
    pub const GRANT: &str = "GRANT";
    /// `u32`: a [`RewriteTcp`](crate::RewriteTcp).
    pub const REWRITE_TCP: &str = "REWRITE_TCP";
}
