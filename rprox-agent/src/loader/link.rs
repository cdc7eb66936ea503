//! Pinned BPF links, with the commands of bpf(2) that aya has no call for.

#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Commands of bpf(2), from `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// A link that was found by its pin.
#[derive(Debug)]
pub struct PinnedLink(OwnedFd);

/// `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

impl PinnedLink {
    /// Opens the link that is pinned at `path`.
    ///
    /// # Errors
    ///
    /// What the kernel said: `NotFound` where nothing is pinned.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        // SAFETY: `path` outlives the call, and the layout is the command's.
        let fd = unsafe { bpf(BPF_OBJ_GET, &raw const attr) }?;
        // SAFETY: the kernel has just made the descriptor, and nothing else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes the program off its hook, at once. Removing the last pin does that as well, but only some time later.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn detach(&self) -> io::Result<()> {
        let attr = LinkDetach { link_fd: self.0.as_raw_fd().cast_unsigned() };
        // SAFETY: the layout is the command's.
        unsafe { bpf(BPF_LINK_DETACH, &raw const attr) }.map(drop)
    }
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must have the layout that `command` reads, and what it points to must be valid.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attr: *const T) -> io::Result<libc::c_int> {
    // SAFETY: by this function's contract; the size is that of `attr`, and the kernel takes the rest as zeroes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
