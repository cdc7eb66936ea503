//! Lets aya copy the shared types in and out of maps.

use crate::{
    Address, AddressSlot, AttachmentCounters, DirectFlow, Listener, PortEntries, PortEntry, RuleCounters,
    State,
};

// SAFETY: `repr(C)` or `repr(transparent)` over integers, no padding, and every bit pattern is a value.
unsafe impl aya::Pod for Address {}
// SAFETY: as above.
unsafe impl aya::Pod for AddressSlot {}
// SAFETY: as above.
unsafe impl aya::Pod for AttachmentCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for DirectFlow {}
// SAFETY: as above.
unsafe impl aya::Pod for Listener {}
// SAFETY: as above.
unsafe impl aya::Pod for PortEntries {}
// SAFETY: as above.
unsafe impl aya::Pod for PortEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for RuleCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for State {}
