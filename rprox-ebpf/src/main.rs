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

mod log;
mod packet;
mod rewrite;

use aya_ebpf::{macros::classifier, programs::TcContext};

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
