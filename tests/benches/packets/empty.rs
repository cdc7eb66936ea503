//! A classifier that does nothing: what is left is what the kernel's own loop and the call cost.

#![allow(unsafe_code, reason = "aya loads objects, and this is two instructions")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `r0 = -1` (`TCX_NEXT`); `exit`.
const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// The program.
pub(crate) struct Empty {
    fd: OwnedFd,
}

impl Empty {
    /// Loads it; root may.
    pub(crate) fn load() -> io::Result<Self> {
        let mut load = Load {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: 2,
            insns: INSTRUCTIONS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut load)?;
        // SAFETY: the kernel has just made it for us.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Runs it `repeat` times on `frame`.
    pub(crate) fn repeat(&self, frame: &[u8], repeat: u32) -> io::Result<()> {
        let mut run = TestRun {
            prog_fd: self.fd.as_raw_fd().cast_unsigned(),
            retval: 0,
            data_size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat,
            duration: 0,
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).map(drop)
    }
}

fn bpf<A>(command: libc::c_long, attribute: &mut A) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes within the size given, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}
