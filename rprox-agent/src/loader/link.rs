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
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
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

/// `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// What the kernel says of a TCX link: the head of `struct bpf_link_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LinkInfo {
    kind: u32,
    /// Its id.
    pub id: u32,
    /// The id of the program that is in it now.
    pub program: u32,
    padding: u32,
    /// The index of the interface that it is on; 0 when that is gone.
    pub ifindex: u32,
    attach_type: u32,
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
        let mut attr = LinkUpdate {
            link_fd: self.0.as_raw_fd().cast_unsigned(),
            new_prog_fd: program.as_raw_fd().cast_unsigned(),
            flags: 0,
            old_prog_fd: 0,
        };
        // SAFETY: the layout is the command's.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
    }

    /// Takes the program off its hook, at once. Removing the last pin does that as well, but only some time later.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = LinkDetach { link_fd: self.0.as_raw_fd().cast_unsigned() };
        // SAFETY: the layout is the command's.
        unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        // SAFETY: it is the head of the structure that the kernel fills for a link.
        unsafe { get_info(&self.0, &mut info) }?;
        Ok(info)
    }
}

/// Asks the kernel for what it says of `object`.
///
/// # Safety
///
/// `T` must be the head of the structure that the kernel fills for this kind of object, and what it points to must be valid.
pub(super) unsafe fn get_info<T>(object: &OwnedFd, info: &mut T) -> io::Result<()> {
    let mut attr = GetInfo {
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the layout is the command's; `info` has `info_len` bytes, and is what the kernel may write by this function's
    // contract.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// Opens whatever is pinned at `path`.
///
/// # Errors
///
/// What the kernel said: `NotFound` where nothing is pinned.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Obj { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `path` outlives the call, and the layout is the command's.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
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
    let mut attr = Obj { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    // SAFETY: `path` and `object` outlive the call, and the layout is the command's.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must have the layout that `command` reads and writes, and what it points to must be valid.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: by this function's contract; the size is that of `attr`, and the kernel takes the rest as zeroes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
