//! The root of the cgroup2 hierarchy, where programs see the sockets of every process.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use procfs::process::Process;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

/// Why there is no root to attach to.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The mounts can't be read.
    #[error("reading /proc/self/mountinfo: {0}")]
    Mounts(#[source] procfs::ProcError),
    /// No cgroup2.
    #[error(
        "no cgroup2 file system is mounted here, which port guard and mode steer attach to; mount one (`mount -t cgroup2 cgroup2 \
         /sys/fs/cgroup/unified`), or do without them: `--owner any --mode rewrite`"
    )]
    None,
    /// It can't be opened.
    #[error("opening the cgroup2 file system {path}: {source}", path = path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens the root.
///
/// # Errors
///
/// There is none, or it can't be opened.
pub fn root() -> Result<OwnedFd, CgroupError> {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).map_err(CgroupError::Mounts)?;
    let mount = mounts.0.into_iter().find(|mount| mount.fs_type == "cgroup2" && mount.root == "/");
    let path = mount.ok_or(CgroupError::None)?.mount_point;
    rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| CgroupError::Open { path, source: error.into() })
}
