//! The port guard, and mode `grant`: who may bind which port.

use aya_ebpf::{Global, helpers::bpf_get_current_uid_gid, programs::SockAddrContext};
use rprox_common::{PortKind, Protocol};

use crate::{host::is_in_this_netns, rules::Rules};

/// The user whose sockets may serve the redirected ports, by the id that the initial user namespace knows it by.
#[unsafe(no_mangle)]
static OWNER: Global<u32> = Global::new(0);

/// Whether the owner may bind FROM ports itself: mode `grant`.
#[unsafe(no_mangle)]
static GRANT: Global<u32> = Global::new(0);

/// What a bind program answers: EPERM, the kernel's usual checks, and the usual checks but for `CAP_NET_BIND_SERVICE`.
const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
const ALLOW_PRIVILEGED_PORT: i32 = 3;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

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
    let is_owner = bpf_get_current_uid_gid() as u32 == OWNER.load();
    match rules.entry.kind() {
        PortKind::To if !is_owner => REFUSE,
        PortKind::From if is_owner && GRANT.load() != 0 => ALLOW_PRIVILEGED_PORT,
        _ => ALLOW,
    }
}
