//! Where a TCP connection lives: on FROM where it was steered, on TO where its packets are changed.

use core::mem::size_of;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use rprox_common::{Address, RewriteTcp, State};

/// A [`RewriteTcp`].
#[unsafe(no_mangle)]
static REWRITE_TCP: Global<u32> = Global::new(RewriteTcp::All as u32);

/// A connection's ends, but for the local port; ports in network order.
pub struct Ends {
    pub remote: Address,
    pub remote_port: u16,
    pub local: Address,
}

/// Whether TCP is no business of the programs in the packets' path. The verifier knows, and cuts off what comes after.
#[inline(always)]
pub fn is_tcp_left_alone() -> bool {
    REWRITE_TCP.load() == RewriteTcp::None as u32
}

/// Whether a connection's packets are to be changed between `from` and `to`. `opens`: the packet opens it. The verifier knows which
/// arm is taken by `REWRITE_TCP`, and cuts the others off.
#[inline(always)]
pub fn is_rewritten(
    ctx: &TcContext,
    state: State,
    opens: bool,
    from: u16,
    to: u16,
    ends: impl FnOnce() -> Option<Ends>,
) -> bool {
    let mode = REWRITE_TCP.load();
    if mode == RewriteTcp::All as u32 {
        return true;
    }
    if mode == RewriteTcp::Begun as u32 {
        if opens {
            return state.still_rewrites();
        }
        return ends().is_some_and(|ends| lives_on(ctx, &ends, to));
    }
    opens || !ends().is_some_and(|ends| lives_on(ctx, &ends, from))
}

/// Whether a socket is connected over `ends` and the local port.
#[inline(always)]
fn lives_on(ctx: &TcContext, ends: &Ends, local_port: u16) -> bool {
    const CURRENT_NETNS: u64 = u64::MAX;
    const TIME_WAIT: u32 = 6;
    const CLOSE: u32 = 7;
    const LISTEN: u32 = 10;
    let Ends { remote: Address(remote), local: Address(local), remote_port, .. } = *ends;
    let is_v4 = remote[0] == 0 && remote[1] == 0 && remote[2] == 0xffff_u32.to_be();
    let (tuple, len) = if is_v4 {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: remote[3],
            daddr: local[3],
            sport: remote_port,
            dport: local_port,
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>())
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: remote,
            daddr: local,
            sport: remote_port,
            dport: local_port,
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>())
    };
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: tuple };
    // SAFETY: the tuple is valid for `len` bytes, which say its kind.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, len as u32, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the reference is held.
    let state = unsafe { (*socket).state };
    // SAFETY: the reference is given back once, and not used again.
    unsafe { bpf_sk_release(socket.cast()) };
    !matches!(state, TIME_WAIT | CLOSE | LISTEN)
}
