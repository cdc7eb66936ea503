//! Has the allocator give back what it holds and nobody uses.

#![allow(unsafe_code, reason = "glibc's allocator takes this order by a C function alone")]

/// Gives all free pages back to the kernel: by itself glibc only does so at the end of a heap, and one byte in use there keeps what
/// is before it (`malloc_trim(3)`).
pub fn unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, locks the heaps that it looks through, and touches nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
