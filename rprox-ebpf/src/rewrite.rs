//! Mode `rewrite`: ports are changed in the packet, by the rules alone. There is no flow table for redirected traffic.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
    programs::TcContext,
};
use rprox_common::{
    Address, AttachmentCounters, DirectFlow, MAX_DIRECT_FLOWS, MAX_LOCAL_ADDRESSES, MIN_RULE_CAPACITY,
    PORT_TABLE_LEN, PortEntry, PortKind, Protocol, RuleCounters, State, port_index,
};

use crate::packet::{NotParsed, Packet, Segment};

#[map]
static PORTS: Array<PortEntry> = Array::with_max_entries(PORT_TABLE_LEN, 0);
#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static LOCAL_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(MAX_LOCAL_ADDRESSES, 0);
#[map]
static RULE_COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::with_max_entries(MIN_RULE_CAPACITY, 0);
#[map]
static COUNTERS: PerCpuArray<AttachmentCounters> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DIRECT_FLOWS: LruHashMap<DirectFlow, u8> = LruHashMap::with_max_entries(MAX_DIRECT_FLOWS, 0);

/// Lets later programs on the interface run. To clsact the same value says to go on with the next filter.
const NEXT: i32 = TCX_NEXT;
const DROP: i32 = TC_ACT_SHOT;

/// Changes destination port FROM to TO, and refuses direct connections to TO.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    redirect(ctx).unwrap_or_else(|NotParsed| {
        count(|counters| counters.ingress_not_parsed += 1);
        NEXT
    })
}

/// Changes source port TO back to FROM.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    if let Err(NotParsed) = restore(ctx) {
        count(|counters| counters.egress_not_parsed += 1);
    }
    NEXT
}

#[inline(always)]
fn redirect(ctx: &TcContext) -> Result<i32, NotParsed> {
    let Packet::Segment(segment) = Packet::parse(ctx)? else { return Ok(NEXT) };
    let Some(rules) = Rules::look_up(&segment, segment.destination_port) else { return Ok(NEXT) };
    let Some(local) = segment.destination(ctx).filter(is_local) else { return Ok(NEXT) };
    if rules.entry.kind() == PortKind::To {
        if !rules.state.allow_direct() {
            rules.count(|counters| counters.refused_direct += 1);
            return Ok(DROP);
        }
        if let Some(remote) = segment.source(ctx) {
            let flow = direct_flow(&segment, remote, segment.source_port, local, segment.destination_port);
            // The look-up comes first: it also marks the flow as used.
            if !is_direct(&flow) {
                // A full map gives up its oldest flow. What else can fail costs this flow alone its replies.
                let _ = DIRECT_FLOWS.insert(flow, 1, 0);
            }
        }
        return Ok(NEXT);
    }
    if rules.state.allow_direct()
        && let Some(remote) = segment.source(ctx)
    {
        // The client's port may have belonged to a direct flow before.
        let flow = direct_flow(&segment, remote, segment.source_port, local, rules.entry.peer);
        if is_direct(&flow) {
            let _ = DIRECT_FLOWS.remove(flow);
        }
    }
    let opens_connection = segment.opens_connection(ctx);
    replace_port(ctx, &segment, 2, segment.destination_port, rules.entry.peer)?;
    rules.count(|counters| {
        counters.ingress_packets += 1;
        counters.ingress_bytes += u64::from(ctx.len());
        counters.connections += u64::from(opens_connection);
    });
    Ok(NEXT)
}

#[inline(always)]
fn restore(ctx: &TcContext) -> Result<(), NotParsed> {
    let Packet::Segment(segment) = Packet::parse(ctx)? else { return Ok(()) };
    let Some(rules) = Rules::look_up(&segment, segment.source_port) else { return Ok(()) };
    if rules.entry.kind() != PortKind::To {
        return Ok(());
    }
    let Some(local) = segment.source(ctx).filter(is_local) else { return Ok(()) };
    if rules.state.allow_direct()
        && let Some(remote) = segment.destination(ctx)
        && is_direct(&direct_flow(&segment, remote, segment.destination_port, local, segment.source_port))
    {
        return Ok(());
    }
    replace_port(ctx, &segment, 0, segment.source_port, rules.entry.peer)?;
    rules.count(|counters| {
        counters.egress_packets += 1;
        counters.egress_bytes += u64::from(ctx.len());
    });
    Ok(())
}

/// What the rules in force say of a port.
struct Rules {
    state: State,
    entry: PortEntry,
}

impl Rules {
    /// `None` where no rule names the port, given in network order.
    #[inline(always)]
    fn look_up(segment: &Segment, port: u16) -> Option<Self> {
        let state = *STATE.get(0)?;
        let entry = *PORTS.get(port_index(state.generation(), segment.protocol, u16::from_be(port)))?;
        (entry.kind() != PortKind::None).then_some(Self { state, entry })
    }

    #[inline(always)]
    fn count(&self, add: impl FnOnce(&mut RuleCounters)) {
        if let Some(counters) = RULE_COUNTERS.get_ptr_mut(u32::from(self.entry.rule)) {
            // SAFETY: the slot is this CPU's own, and the program isn't preempted by another that writes it.
            add(unsafe { &mut *counters });
        }
    }
}

#[inline(always)]
fn is_local(address: &Address) -> bool {
    LOCAL_ADDRESSES.get_ptr(address).is_some()
}

#[inline(always)]
fn is_direct(flow: &DirectFlow) -> bool {
    DIRECT_FLOWS.get_ptr(flow).is_some()
}

#[inline(always)]
fn direct_flow(
    segment: &Segment,
    remote: Address,
    remote_port: u16,
    local: Address,
    local_port: u16,
) -> DirectFlow {
    DirectFlow { remote, local, remote_port, local_port, protocol: segment.protocol as u32 }
}

/// Changes the port at `offset` in the transport header, and the checksum with it.
///
/// The checksum goes first: it lies behind the port, so if it can be changed the port can, and a packet is changed whole or
/// not at all. No address changes, so the pseudo-header doesn't, and a checksum that the device is yet to fill in
/// (`CHECKSUM_PARTIAL`) covers no port: the helper leaves such a one alone.
#[inline(always)]
fn replace_port(
    ctx: &TcContext,
    segment: &Segment,
    offset: usize,
    old: u16,
    new: u16,
) -> Result<(), NotParsed> {
    let checksum = segment.checksum().ok_or(NotParsed)?;
    let mut flags = size_of::<u16>() as u64;
    if segment.protocol == Protocol::Udp {
        // RFC 768: 0 says that there is no checksum, and one that comes out as 0 is sent as 0xffff.
        flags |= u64::from(BPF_F_MARK_MANGLED_0);
    }
    ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), flags).map_err(|_| NotParsed)?;
    ctx.store(segment.transport + offset, &new, 0).map_err(|_| NotParsed)
}

#[inline(always)]
fn count(add: impl FnOnce(&mut AttachmentCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: as in `Rules::count`.
        add(unsafe { &mut *counters });
    }
}
