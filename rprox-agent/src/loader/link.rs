//! Pinned BPF links, with the commands of bpf(2) that aya has no call for.

#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Commands of bpf(2), from `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// A link that was found by its pin.
#[derive(Debug)]
pub struct PinnedLink(OwnedFd);

/// `union bpf_attr` for `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
#[repr(C)]
struct Obj {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

impl PinnedLink {
    /// Opens the link that is pinned at `path`.
    ///
    /// # Errors
    ///
    /// What the kernel said: `NotFound` where nothing is pinned.
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// Puts `program` in the place of the one on the link, in one step.
    ///
    /// # Errors
    ///
    /// What the kernel said: `ENOLINK` where what the link was on is gone.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let attr = LinkUpdate {
            link_fd: self.0.as_raw_fd().cast_unsigned(),
            new_prog_fd: program.as_raw_fd().cast_unsigned(),
            flags: 0,
            old_prog_fd: 0,
        };
        // SAFETY: the layout is the command's.
        unsafe { bpf(BPF_LINK_UPDATE, &raw const attr) }.map(drop)
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

/// Opens whatever is pinned at `path`.
///
/// # Errors
///
/// What the kernel said: `NotFound` where nothing is pinned.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Obj { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `path` outlives the call, and the layout is the command's.
    let fd = unsafe { bpf(BPF_OBJ_GET, &raw const attr) }?;
    // SAFETY: the kernel has just made the descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins `object` at `path`.
///
/// # Errors
///
/// What the kernel said.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = object.as_raw_fd().cast_unsigned();
    let attr = Obj { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    // SAFETY: `path` and `object` outlive the call, and the layout is the command's.
    unsafe { bpf(BPF_OBJ_PIN, &raw const attr) }.map(drop)
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
