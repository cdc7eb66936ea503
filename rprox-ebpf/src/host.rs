//! Which network namespace and which user an attachment serves.

use aya_ebpf::{EbpfContext, Global, helpers::bpf_get_netns_cookie};

/// The cookie of the attachment's network namespace.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// Whether a socket belongs to the attachment's network namespace. Programs on a cgroup see the sockets of all of them.
#[inline(always)]
pub fn is_in_this_netns(ctx: &impl EbpfContext) -> bool {
    // SAFETY: the helper takes the context of every program type that this is called in.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    cookie == NETNS_COOKIE.load()
}
