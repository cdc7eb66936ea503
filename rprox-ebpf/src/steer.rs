//! Mode `steer`: a connection's first packet is given to the socket that listens on TO, and no packet is changed.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::map,
    maps::{Array, SockHash},
    programs::{SkLookupContext, SockOpsContext},
};
use aya_log_ebpf::debug;
use rprox_common::{
    Address, LISTENED_LEN, Listener, MAX_LISTENERS, MAX_LISTENERS_PER_ADDRESS, PortKind, Protocol,
};

use crate::{
    guard,
    host::is_in_this_netns,
    log,
    numbers::{AF_INET, AF_INET6, IPPROTO_TCP},
    rules::Rules,
};

/// The chosen interface.
#[unsafe(no_mangle)]
static INTERFACE: Global<u32> = Global::new(0);

#[map]
static LISTENERS: SockHash<Listener> = SockHash::with_max_entries(MAX_LISTENERS, 0);
/// Where nobody has ever listened no socket is looked for: an index instead of a hash for each slot.
#[map]
static LISTENED: Array<u64> = Array::with_max_entries(LISTENED_LEN, 0);

/// On with the next program, and with the kernel's own look-up.
const PASS: u32 = 1;
/// No socket: the kernel answers that the connection is refused.
const DROP: u32 = 0;

/// `BPF_SOCK_OPS_TCP_LISTEN_CB`.
const TCP_LISTEN: u32 = 11;
/// `BPF_ANY` and `BPF_NOEXIST`.
const ANY: u64 = 0;
const NOEXIST: u64 = 1;

/// Chooses the socket for a connection that comes in.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    // SAFETY: the kernel hands the program a valid context.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != IPPROTO_TCP || lookup.ingress_ifindex != INTERFACE.load() {
        return PASS;
    }
    let Some(rules) = Rules::look_up(Protocol::Tcp, lookup.local_port as u16) else { return PASS };
    if rules.entry.kind() != PortKind::From {
        return direct(ctx, &rules);
    }
    let port = u32::from(u16::from_be(rules.entry.peer()));
    // The kernel's own order: a socket bound to the address, then one bound to any.
    let found = match lookup.family {
        AF_INET => {
            assign(ctx, lookup.ingress_ifindex, Address::from_v4_raw(lookup.local_ip4), port)
                || assign(ctx, lookup.ingress_ifindex, Address::UNSPECIFIED_V4, port)
                || assign(ctx, lookup.ingress_ifindex, Address::UNSPECIFIED_V6, port)
        }
        AF_INET6 => {
            assign(ctx, lookup.ingress_ifindex, read_address(&lookup.local_ip6), port)
                || assign(ctx, lookup.ingress_ifindex, Address::UNSPECIFIED_V6, port)
        }
        _ => return PASS,
    };
    if !found {
        // What else listens on FROM is not for this interface.
        return DROP;
    }
    rules.count(|counters| counters.connections += 1);
    PASS
}

/// What a connection to TO gets. Where there may be connections that began under mode `rewrite` it is the programs in the packets' path
/// that refuse: what they have changed arrives here, too.
#[inline(always)]
fn direct(ctx: &SkLookupContext, rules: &Rules) -> u32 {
    if rules.state.allow_direct() || !rules.state.is_left_to_steer() {
        return PASS;
    }
    rules.count(|counters| counters.refused_direct += 1);
    if log::sampled() {
        log_refused(ctx);
    }
    DROP
}

#[inline(always)]
fn log_refused(ctx: &SkLookupContext) {
    // SAFETY: the kernel hands the program a valid context.
    let lookup = unsafe { &*ctx.lookup };
    let remote = match lookup.family {
        AF_INET => Address::from_v4_raw(lookup.remote_ip4),
        _ => read_address(&lookup.remote_ip6),
    };
    debug!(
        ctx,
        "refused: a direct connection from {:i} port {} to port {}",
        remote.octets(),
        u16::from_be(lookup.remote_port),
        lookup.local_port
    );
}

/// Gives the connection to a socket that listens on the address and port, if one does that would take it: an IPv6 socket may be for
/// IPv6 alone. Of a `SO_REUSEPORT` group the kernel chooses a member itself.
#[inline(always)]
fn assign(ctx: &SkLookupContext, interface: u32, address: Address, port: u32) -> bool {
    if LISTENED.get((Listener { address, port, slot: 0 }).place()).is_none_or(|listened| *listened == 0) {
        return false;
    }
    for slot in 0..MAX_LISTENERS_PER_ADDRESS {
        let key = Listener { address, port, slot };
        // SAFETY: the map is a SOCKHASH with such keys, in which a look-up takes a reference to the socket that it finds.
        let socket =
            unsafe { bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), (&raw const key).cast()) };
        if socket.is_null() {
            continue;
        }
        // SAFETY: the reference is held.
        let bound_to = unsafe { (*socket.cast::<bpf_sock>()).bound_dev_if };
        // SAFETY: the context and the socket are valid.
        let assigned = (bound_to == 0 || bound_to == interface)
            && unsafe { bpf_sk_assign(ctx.as_ptr(), socket, 0) } == 0;
        // SAFETY: the reference is given back once, and not used again.
        unsafe { bpf_sk_release(socket) };
        if assigned {
            return true;
        }
    }
    false
}

/// Notes every socket of this network namespace that begins to listen on TO and may. The map forgets it when it is closed.
#[inline(always)]
pub fn note_listener(ctx: &SockOpsContext) {
    if ctx.op() != TCP_LISTEN {
        return;
    }
    let port = ctx.local_port();
    let Some(rules) = Rules::look_up(Protocol::Tcp, port as u16) else { return };
    if rules.entry.kind() != PortKind::To || !is_in_this_netns(ctx) || !guard::may_serve(ctx) {
        return;
    }
    let address = match ctx.family() {
        AF_INET => Address::from_v4_raw(ctx.local_ip4()),
        // SAFETY: the kernel hands the program a valid context.
        AF_INET6 => read_address(unsafe { &(*ctx.ops).local_ip6 }),
        _ => return,
    };
    let Some(listened) = LISTENED.get_ptr_mut((Listener { address, port, slot: 0 }).place()) else { return };
    // SAFETY: the pointer is to a word, to which nobody ever writes anything else.
    unsafe { listened.write_volatile(1) };
    let note = |slot, flags| {
        let mut key = Listener { address, port, slot };
        // SAFETY: the kernel hands the program a valid context.
        let socket: &mut bpf_sock_ops = unsafe { &mut *ctx.ops };
        LISTENERS.update(&mut key, socket, flags).is_ok()
    };
    for slot in 0..MAX_LISTENERS_PER_ADDRESS {
        if note(slot, NOEXIST) {
            return;
        }
    }
    // The group has more members than there are places. Those noted so far may be the old process' of a restart, and all close
    // before this one does; cookies are given in turn, so its fellows take other places.
    note(guard::socket_cookie(ctx) as u32 % MAX_LISTENERS_PER_ADDRESS, ANY);
}

/// Reads an IPv6 address out of a context, word by word: the verifier takes no other access to one, and the compiler would copy it as
/// a whole.
#[inline(always)]
fn read_address(words: &[u32; 4]) -> Address {
    // SAFETY: the reference is valid.
    Address([0, 1, 2, 3].map(|word| unsafe { (&raw const words[word]).read_volatile() }))
}
