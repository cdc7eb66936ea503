//! Mode `rewrite`: ports are changed in the packet, by the rules alone. There is no flow table for redirected traffic.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use rprox_common::{
    ADDRESS_SLOTS, Address, AddressSlot, AttachmentCounters, DirectFlow, MAX_DIRECT_FLOWS,
    MAX_LOCAL_ADDRESSES, PortKind, Protocol,
};

use crate::{
    connection::{self, Ends},
    log,
    packet::{Handler, IcmpError, NotParsed, Packet, Segment},
    rules::Named,
};

#[map]
static LOCAL_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(MAX_LOCAL_ADDRESSES, 0);
#[map(name = "ADDRESS_SLOTS")]
static ADDRESS_SLOT_TABLE: Array<AddressSlot> = Array::with_max_entries(ADDRESS_SLOTS, 0);
#[map]
static COUNTERS: PerCpuArray<AttachmentCounters> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DIRECT_FLOWS: LruHashMap<DirectFlow, u8> = LruHashMap::with_max_entries(MAX_DIRECT_FLOWS, 0);

/// Lets later programs on the interface run. To clsact the same value says to go on with the next filter.
const NEXT: i32 = TCX_NEXT;
const DROP: i32 = TC_ACT_SHOT;

/// Where the ports are in a TCP or UDP header.
const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;

struct Ingress;
struct Egress;

impl Handler for Ingress {
    type Outcome = Result<i32, NotParsed>;

    #[inline(always)]
    fn handle(ctx: &TcContext, packet: Packet) -> Self::Outcome {
        redirect(ctx, packet)
    }
}

impl Handler for Egress {
    type Outcome = Result<(), NotParsed>;

    #[inline(always)]
    fn handle(ctx: &TcContext, packet: Packet) -> Self::Outcome {
        restore(ctx, packet)
    }
}

/// Changes destination port FROM to TO, and refuses direct connections to TO.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let redirected = Packet::parse::<Ingress>(ctx);
    redirected.flatten().unwrap_or_else(|NotParsed| {
        count(|counters| counters.ingress_not_parsed += 1);
        if log::sampled() {
            debug!(ctx, "ingress: a packet of {} bytes was not parsed, and passed", ctx.len());
        }
        NEXT
    })
}

/// Changes source port TO back to FROM.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    let restored = Packet::parse::<Egress>(ctx);
    if let Err(NotParsed) = restored.flatten() {
        count(|counters| counters.egress_not_parsed += 1);
        if log::sampled() {
            debug!(ctx, "egress: a packet of {} bytes was not parsed, and passed", ctx.len());
        }
    }
    NEXT
}

#[inline(always)]
fn redirect(ctx: &TcContext, packet: Packet) -> Result<i32, NotParsed> {
    let segment = match packet {
        Packet::Segment(segment) => segment,
        Packet::Error(error) => return redirect_error(ctx, &error).map(|()| NEXT),
        Packet::Other => return Ok(NEXT),
    };
    let Some(named) = Named::look_up(segment.protocol, u16::from_be(segment.destination_port)) else {
        return Ok(NEXT);
    };
    let Some(local) = segment.destination(ctx).filter(is_local) else { return Ok(NEXT) };
    let Some(rules) = named.in_force().filter(|rules| rules.are_for(segment.protocol)) else {
        return Ok(NEXT);
    };
    if rules.entry.kind() == PortKind::To {
        if !rules.state.allow_direct() {
            rules.count(|counters| counters.refused_direct += 1);
            if log::sampled() {
                log_refused(ctx, &segment);
            }
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
    let opens_connection = segment.opens_connection(ctx);
    if segment.protocol == Protocol::Tcp
        && !connection::is_rewritten(
            ctx,
            rules.state,
            opens_connection,
            segment.destination_port,
            rules.entry.peer(),
            || Some(Ends { remote: segment.source(ctx)?, remote_port: segment.source_port, local }),
        )
    {
        return Ok(NEXT);
    }
    if rules.state.allow_direct()
        && let Some(remote) = segment.source(ctx)
    {
        // The client's port may have belonged to a direct flow before.
        let flow = direct_flow(&segment, remote, segment.source_port, local, rules.entry.peer());
        if is_direct(&flow) {
            let _ = DIRECT_FLOWS.remove(flow);
        }
    }
    replace_port(ctx, &segment, DESTINATION_PORT, segment.destination_port, rules.entry.peer())?;
    rules.count(|counters| {
        counters.ingress_packets += 1;
        counters.ingress_bytes += u64::from(ctx.len());
        counters.connections += u64::from(opens_connection);
    });
    Ok(NEXT)
}

#[inline(always)]
fn log_refused(ctx: &TcContext, segment: &Segment) {
    if let Some(remote) = segment.source(ctx) {
        debug!(
            ctx,
            "refused: a direct packet from {:i} port {} to port {}",
            remote.octets(),
            u16::from_be(segment.source_port),
            u16::from_be(segment.destination_port)
        );
    }
}

#[inline(always)]
fn restore(ctx: &TcContext, packet: Packet) -> Result<(), NotParsed> {
    let segment = match packet {
        Packet::Segment(segment) => segment,
        Packet::Error(error) => return restore_error(ctx, &error),
        Packet::Other => return Ok(()),
    };
    let Some(named) = Named::look_up(segment.protocol, u16::from_be(segment.source_port)) else {
        return Ok(());
    };
    if !named.may_be_to() {
        return Ok(());
    }
    let Some(local) = segment.source(ctx).filter(is_local) else { return Ok(()) };
    let Some(rules) = named.in_force_as(PortKind::To, segment.protocol) else { return Ok(()) };
    if rules.state.allow_direct()
        && let Some(remote) = segment.destination(ctx)
        && is_direct(&direct_flow(&segment, remote, segment.destination_port, local, segment.source_port))
    {
        return Ok(());
    }
    replace_port(ctx, &segment, SOURCE_PORT, segment.source_port, rules.entry.peer())?;
    rules.count(|counters| {
        counters.egress_packets += 1;
        counters.egress_bytes += u64::from(ctx.len());
    });
    Ok(())
}

/// An error about a packet that went out from FROM is for the socket on TO.
#[inline(always)]
fn redirect_error(ctx: &TcContext, error: &IcmpError) -> Result<(), NotParsed> {
    let about = &error.about;
    let Some(named) = Named::look_up(about.protocol, u16::from_be(about.source_port)) else { return Ok(()) };
    let Some(local) = about.source(ctx).filter(is_local) else { return Ok(()) };
    let Some(rules) = named.in_force_as(PortKind::From, about.protocol) else { return Ok(()) };
    if about.protocol == Protocol::Tcp
        && !connection::is_rewritten(ctx, rules.state, false, about.source_port, rules.entry.peer(), || {
            Some(Ends { remote: about.destination(ctx)?, remote_port: about.destination_port, local })
        })
    {
        return Ok(());
    }
    replace_port_in_error(ctx, error, SOURCE_PORT, about.source_port, rules.entry.peer())?;
    rules.count(|counters| counters.ingress_errors += 1);
    Ok(())
}

/// An error about a packet that came in for TO speaks of the port that the sender knows, FROM.
#[inline(always)]
fn restore_error(ctx: &TcContext, error: &IcmpError) -> Result<(), NotParsed> {
    let about = &error.about;
    let Some(named) = Named::look_up(about.protocol, u16::from_be(about.destination_port)) else {
        return Ok(());
    };
    let Some(local) = about.destination(ctx).filter(is_local) else { return Ok(()) };
    let Some(rules) = named.in_force_as(PortKind::To, about.protocol) else { return Ok(()) };
    if rules.state.allow_direct()
        && let Some(remote) = about.source(ctx)
        && is_direct(&direct_flow(about, remote, about.source_port, local, about.destination_port))
    {
        return Ok(());
    }
    replace_port_in_error(ctx, error, DESTINATION_PORT, about.destination_port, rules.entry.peer())?;
    rules.count(|counters| counters.egress_errors += 1);
    Ok(())
}

/// Whether it is an address of this host. What shares its place in the table with another is looked up in the hash.
#[inline(always)]
fn is_local(address: &Address) -> bool {
    match ADDRESS_SLOT_TABLE.get(address.slot()) {
        Some(AddressSlot { used: 0, .. }) => false,
        Some(slot) if slot.halves == address.halves() => true,
        _ => LOCAL_ADDRESSES.get_ptr(address).is_some(),
    }
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
    replace_in_checksum(ctx, checksum, old, new, checksum_flags(segment.protocol))?;
    ctx.store(segment.transport + offset, &new, 0).map_err(|_| NotParsed)
}

/// Changes the port at `offset` in the transport header that an ICMP error carries, that header's checksum if the error is
/// long enough to carry it, and the error's own checksum, which covers both.
#[inline(always)]
fn replace_port_in_error(
    ctx: &TcContext,
    error: &IcmpError,
    offset: usize,
    old: u16,
    new: u16,
) -> Result<(), NotParsed> {
    replace_in_checksum(ctx, error.checksum, old, new, 0)?;
    ctx.store(error.about.transport + offset, &new, 0).map_err(|_| NotParsed)?;
    let Some(checksum) = error.about.checksum() else { return Ok(()) };
    let before: u16 = ctx.load(checksum).map_err(|_| NotParsed)?;
    replace_in_checksum(ctx, checksum, old, new, checksum_flags(error.about.protocol))?;
    let after: u16 = ctx.load(checksum).map_err(|_| NotParsed)?;
    replace_in_checksum(ctx, error.checksum, before, after, 0)
}

/// RFC 768: a UDP checksum of 0 says that there is none, and one that comes out as 0 is sent as 0xffff.
#[inline(always)]
fn checksum_flags(protocol: Protocol) -> u64 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => u64::from(BPF_F_MARK_MANGLED_0),
    }
}

/// Changes the checksum at `offset` for a covered word that goes from `old` to `new`.
#[inline(always)]
fn replace_in_checksum(
    ctx: &TcContext,
    offset: usize,
    old: u16,
    new: u16,
    flags: u64,
) -> Result<(), NotParsed> {
    let flags = flags | size_of::<u16>() as u64;
    ctx.l4_csum_replace(offset, u64::from(old), u64::from(new), flags).map_err(|_| NotParsed)
}

#[inline(always)]
fn count(add: impl FnOnce(&mut AttachmentCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own, and the program isn't preempted by another that writes it.
        add(unsafe { &mut *counters });
    }
}
