//! Which programs are on a TCX hook, in the order in which packets meet them, and which maps a program uses. aya can tell, but
//! opens each program by its id, which takes `CAP_SYS_ADMIN`.

#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::MapData;
use rustix::io::Errno;

use super::link::{bpf, get_info, open};
use super::object::Direction;

/// `BPF_MAP_LOOKUP_ELEM` of `enum bpf_cmd` in linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
/// `BPF_PROG_QUERY` of `enum bpf_cmd` in linux/bpf.h.
const BPF_PROG_QUERY: libc::c_int = 16;
/// Of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_MPROG_MAX` of kernel/bpf/mprog.c: no hook holds more programs.
const MOST: usize = 64;

/// A program on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// The program's id.
    pub program: u32,
    /// The id of the link that holds it; 0 if it was attached without one.
    pub link: u32,
}

/// `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The programs on the TCX hook of the interface with index `ifindex`; none where the kernel has no TCX.
///
/// # Errors
///
/// What the kernel said.
pub fn tcx(ifindex: u32, direction: Direction) -> io::Result<Vec<Hooked>> {
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attr = ProgQuery {
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Egress => BPF_TCX_EGRESS,
            Direction::Ingress => BPF_TCX_INGRESS,
        },
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr() as u64,
        count: u32::try_from(MOST).unwrap_or(u32::MAX),
        padding: 0,
        prog_attach_flags: 0,
        link_ids: links.as_mut_ptr() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the layout is the command's, and both arrays have room for `count` ids and outlive the call.
    let result = unsafe { bpf(BPF_PROG_QUERY, &mut attr) };
    match result {
        // Nothing was ever attached there; or the kernel is older than TCX.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::INVAL)) => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    let count = (attr.count as usize).min(MOST);
    Ok(programs.iter().zip(&links).take(count).map(|(&program, &link)| Hooked { program, link }).collect())
}

/// The head of `struct bpf_prog_info`, up to the maps.
#[derive(Default)]
#[repr(C)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
}

/// The ids of the maps that the program pinned at `path` uses.
///
/// # Errors
///
/// What the kernel said.
pub fn maps_of(path: &Path) -> io::Result<Vec<u32>> {
    // `MAX_USED_MAPS` of linux/bpf_verifier.h: no program uses more.
    let mut ids = [0_u32; 64];
    let mut info = ProgInfo { map_count: 64, map_ids: ids.as_mut_ptr() as u64, ..ProgInfo::default() };
    // SAFETY: it is the head of the structure that the kernel fills for a program; `ids` has room for `map_count` ids and outlives
    // the call.
    unsafe { get_info(&open(path)?, &mut info) }?;
    Ok(ids[..(info.map_count as usize).min(ids.len())].to_vec())
}

/// `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct LookUp {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The first entry of the array `map`, whose values have `size` bytes.
///
/// # Errors
///
/// What the kernel said.
pub fn first_value(map: &MapData, size: u32) -> io::Result<Vec<u8>> {
    let mut value = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let key = 0_u32;
    let mut attr = LookUp {
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the layout is the command's, an array's keys have four bytes, and the buffer has those of a value.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}
