//! Which events the kernel programs write log lines of: none, unless the loader asks for it when it loads them.

use aya_ebpf::{Global, helpers::bpf_get_prandom_u32};

/// One event in so many, by chance, gets a line; 0 is none. The verifier knows the value, and takes out what can't be reached.
#[unsafe(no_mangle)]
static LOG_ONE_IN: Global<u32> = Global::new(0);

/// Whether this event is one to write a line of.
#[inline(always)]
pub fn sampled() -> bool {
    let one_in = LOG_ONE_IN.load();
    // SAFETY: the helper takes nothing and only gives a number.
    one_in != 0 && unsafe { bpf_get_prandom_u32() }.is_multiple_of(one_in)
}
