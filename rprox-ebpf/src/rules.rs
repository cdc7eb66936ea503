//! The redirect rules in force, which every mode reads.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use rprox_common::{
    MIN_RULE_CAPACITY, PORT_TABLE_LEN, PortEntries, PortEntry, PortKind, Protocol, RuleCounters, State,
    port_index,
};

#[map]
static PORTS: Array<PortEntries> = Array::with_max_entries(PORT_TABLE_LEN, 0);
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static RULE_COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::with_max_entries(MIN_RULE_CAPACITY, 0);

/// A port that rules name, which needn't be in force.
#[derive(Clone, Copy)]
pub struct Named {
    entries: *const PortEntry,
    /// Both entries as one word.
    word: u64,
}

impl Named {
    /// `None` where no rule of either generation names the port, given in host order: as a rule that is all there is to know of a
    /// packet.
    #[inline(always)]
    pub fn look_up(protocol: Protocol, port: u16) -> Option<Self> {
        let entries = PORTS.get_ptr(port_index(protocol, port))?;
        // SAFETY: the pointer is to entries, which are as long and as aligned as a word.
        let word = unsafe { entries.cast::<u64>().read_volatile() };
        (word != 0).then_some(Self { entries: entries.cast(), word })
    }

    /// Whether either generation has the port as TO.
    #[inline(always)]
    pub fn may_be_to(self) -> bool {
        self.word & PortEntries::TO != 0
    }

    /// `None` where the rules in force don't name the port.
    #[inline(always)]
    pub fn in_force(self) -> Option<Rules> {
        let state = *STATE.get(0)?;
        // Read behind the state: a generation is written before it is put in force.
        // SAFETY: the pointer is to the entries of both generations, of which this is one.
        let entry = unsafe { self.entries.add(state.generation() as usize).read_volatile() };
        (entry.kind() != PortKind::None).then_some(Rules { state, entry })
    }

    /// `None` where the rules in force don't have the port as a `kind`, or leave `protocol` to mode `steer`.
    #[inline(always)]
    pub fn in_force_as(self, kind: PortKind, protocol: Protocol) -> Option<Rules> {
        self.in_force().filter(|rules| rules.entry.kind() == kind && rules.are_for(protocol))
    }
}

/// What the rules in force say of a port.
pub struct Rules {
    /// What holds for the whole attachment.
    pub state: State,
    /// What holds for the port; never [`PortKind::None`].
    pub entry: PortEntry,
}

impl Rules {
    /// `None` where no rule in force names the port, given in host order.
    #[inline(always)]
    pub fn look_up(protocol: Protocol, port: u16) -> Option<Self> {
        Named::look_up(protocol, port)?.in_force()
    }

    /// Whether they are for the programs in the packets' path: TCP may be left to mode `steer`.
    #[inline(always)]
    pub fn are_for(&self, protocol: Protocol) -> bool {
        protocol != Protocol::Tcp || !self.state.is_left_to_steer()
    }

    /// Adds to the rule's counters.
    #[inline(always)]
    pub fn count(&self, add: impl FnOnce(&mut RuleCounters)) {
        if let Some(counters) = RULE_COUNTERS.get_ptr_mut(u32::from(self.entry.rule())) {
            // SAFETY: the slot is this CPU's own, and the program isn't preempted by another that writes it.
            add(unsafe { &mut *counters });
        }
    }
}
