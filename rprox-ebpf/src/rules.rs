//! The redirect rules in force, which every mode reads.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use rprox_common::{
    MIN_RULE_CAPACITY, PORT_TABLE_LEN, PortEntry, PortKind, Protocol, RuleCounters, State, port_index,
};

#[map]
static PORTS: Array<PortEntry> = Array::with_max_entries(PORT_TABLE_LEN, 0);
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static RULE_COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::with_max_entries(MIN_RULE_CAPACITY, 0);

/// What the rules in force say of a port.
pub struct Rules {
    /// What holds for the whole attachment.
    pub state: State,
    /// What holds for the port; never [`PortKind::None`].
    pub entry: PortEntry,
}

impl Rules {
    /// `None` where no rule names the port, given in host order.
    #[inline(always)]
    pub fn look_up(protocol: Protocol, port: u16) -> Option<Self> {
        let state = *STATE.get(0)?;
        let entry = *PORTS.get(port_index(state.generation(), protocol, port))?;
        (entry.kind() != PortKind::None).then_some(Self { state, entry })
    }

    /// Adds to the rule's counters.
    #[inline(always)]
    pub fn count(&self, add: impl FnOnce(&mut RuleCounters)) {
        if let Some(counters) = RULE_COUNTERS.get_ptr_mut(u32::from(self.entry.rule)) {
            // SAFETY: the slot is this CPU's own, and the program isn't preempted by another that writes it.
            add(unsafe { &mut *counters });
        }
    }
}
