//! Has the allocator give back what it holds and nobody uses.

#![allow(unsafe_code, reason = "glibc's allocator takes this order by a C function alone")]

/// How much of what the allocator holds nobody uses (`mallinfo2(3)`).
pub(super) fn free() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, locks the heaps that it looks through, and returns numbers.
    return unsafe { libc::mallinfo2() }.fordblks as u64;
    #[cfg(not(target_env = "gnu"))]
    return 0;
}

/// Gives all free pages back to the kernel: by itself glibc only does so at the end of a heap, and one byte in use there keeps what
/// is before it (`malloc_trim(3)`).
pub(super) fn unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, locks the heaps that it looks through, and touches nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
