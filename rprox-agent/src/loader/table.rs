//! Reading an array, as a whole, in one call. An element at a time it would take the kernel 131,072 calls to show the rules.

#![allow(unsafe_code, reason = "aya has no call for BPF_MAP_LOOKUP_BATCH")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::MapData;

use super::link::bpf;

/// From `enum bpf_cmd` in linux/bpf.h; arrays have it since Linux 5.6.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `union bpf_attr` for the batch commands.
#[repr(C)]
struct Batch {
    after: u64,
    last: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The `count` entries of the array `map`, whose values are of type `T`.
///
/// # Errors
///
/// What the kernel said; `UnexpectedEof` where the array is shorter.
pub fn read<T: Pod + Default>(map: &MapData, count: u32) -> io::Result<Vec<T>> {
    let len = usize::try_from(count).map_err(io::Error::other)?;
    let (mut keys, mut values) = (vec![0_u32; len], vec![T::default(); len]);
    let mut last = 0_u32;
    let mut attr = Batch {
        after: 0,
        last: (&raw mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the layout is the command's, and the pointers are to `count` keys and values of the map's sizes, which `Maps::open`
    // has checked, and to one index each.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    match result {
        // The kernel says that the array ends where the last entry was among those read.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if attr.count != count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(values)
}
