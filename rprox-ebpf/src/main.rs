//! rprox's kernel programs: the entry points. What they do is in the modules, one for each mode.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![allow(
    clippy::inline_always,
    reason = "a call costs a frame, and the verifier follows inlined code more closely"
)]
#![allow(clippy::needless_pass_by_value, reason = "the entry points' form is the macro's")]
#![allow(
    missing_docs,
    reason = "the macro makes a second, public item of each entry point and gives it no comment"
)]

mod connection;
mod guard;
mod host;
mod log;
mod numbers;
mod packet;
mod rewrite;
mod rules;
mod steer;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, sk_lookup, sock_ops},
    programs::{SkLookupContext, SockAddrContext, SockOpsContext, TcContext},
};

/// Mode `rewrite`, inbound: changes destination port FROM to TO.
#[classifier]
pub fn rprox_ingress(ctx: TcContext) -> i32 {
    rewrite::ingress(&ctx)
}

/// Mode `rewrite`, outbound: changes source port TO back to FROM.
#[classifier]
pub fn rprox_egress(ctx: TcContext) -> i32 {
    rewrite::egress(&ctx)
}

/// Mode `steer`: gives a connection to FROM to the socket that listens on TO.
#[sk_lookup]
pub fn rprox_steer(ctx: SkLookupContext) -> u32 {
    steer::steer(&ctx)
}

/// Mode `steer`: notes the sockets that listen on TO.
#[sock_ops]
pub fn rprox_listeners(ctx: SockOpsContext) -> u32 {
    steer::note_listener(&ctx);
    // What the hook does with the value depends on the operation; for this one, nothing.
    1
}

/// The port guard, and mode `grant`, for IPv4 sockets.
#[cgroup_sock_addr(bind4)]
pub fn rprox_bind4(ctx: SockAddrContext) -> i32 {
    guard::bind(&ctx)
}

/// The port guard, and mode `grant`, for IPv6 and dual-stack sockets.
#[cgroup_sock_addr(bind6)]
pub fn rprox_bind6(ctx: SockAddrContext) -> i32 {
    guard::bind(&ctx)
}

/// The licence that the kernel asks for before it lends its GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that nothing gets here: it refuses a program that could loop.
    loop {}
}

/// The crate is for the kernel alone; this lets the host's tools (clippy, rust-analyzer) read it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
