//! The port guard, and mode `grant`: who may bind which port.

use aya_ebpf::{
    EbpfContext, Global,
    helpers::{bpf_get_current_uid_gid, bpf_get_socket_cookie},
    macros::map,
    maps::LruHashMap,
    programs::SockAddrContext,
};
use rprox_common::{ANY_OWNER, MAX_BOUND_SOCKETS, PortKind, Protocol};

use crate::{
    host::is_in_this_netns,
    numbers::{IPPROTO_TCP, IPPROTO_UDP},
    rules::Rules,
};

/// The user whose sockets may serve the redirected ports, by the id that the initial user namespace knows it by.
#[unsafe(no_mangle)]
static OWNER: Global<u32> = Global::new(0);

/// The users that sockets were bound to TO by, by the sockets' cookies.
#[map]
static BOUND_BY: LruHashMap<u64, u32> = LruHashMap::with_max_entries(MAX_BOUND_SOCKETS, 0);

/// Whether the owner may bind FROM ports itself: mode `grant`.
#[unsafe(no_mangle)]
static GRANT: Global<u32> = Global::new(0);

/// What a bind program answers: EPERM, the kernel's usual checks, and the usual checks but for `CAP_NET_BIND_SERVICE`.
const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
const ALLOW_PRIVILEGED_PORT: i32 = 3;

/// Refuses TO to all but the owner, and under `grant` lets the owner have FROM.
#[inline(always)]
pub fn bind(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel hands the program a valid context.
    let (protocol, port) = unsafe { ((*ctx.sock_addr).protocol, (*ctx.sock_addr).user_port) };
    let protocol = match protocol {
        IPPROTO_TCP => Protocol::Tcp,
        IPPROTO_UDP => Protocol::Udp,
        _ => return ALLOW,
    };
    let Some(rules) = Rules::look_up(protocol, u16::from_be(port as u16)) else { return ALLOW };
    if !is_in_this_netns(ctx) {
        return ALLOW;
    }
    let owner = OWNER.load();
    let is_owner = bpf_get_current_uid_gid() as u32 == owner;
    match rules.entry.kind() {
        PortKind::To if is_owner => {
            // What can fail costs this socket alone.
            let _ = BOUND_BY.insert(socket_cookie(ctx), owner, 0);
            ALLOW
        }
        PortKind::To => REFUSE,
        PortKind::From if is_owner && GRANT.load() != 0 => ALLOW_PRIVILEGED_PORT,
        _ => ALLOW,
    }
}

/// Whether a socket on TO is one that may be served. Somebody else's may have been bound before there was a guard, and listen now.
#[inline(always)]
pub fn may_serve(ctx: &impl EbpfContext) -> bool {
    let owner = OWNER.load();
    if owner == ANY_OWNER {
        return true;
    }
    // SAFETY: the value is only read, and copied at once.
    unsafe { BOUND_BY.get(socket_cookie(ctx)) }.is_some_and(|user| *user == owner)
}

/// What the kernel knows a socket by for as long as it is up.
#[inline(always)]
pub fn socket_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper takes the context of every program type that this is called in.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
