//! The BPF file system that pins live on: finding it, mounting it, and keeping other loaders out meanwhile.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, StatFs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;
use tracing::{debug, info};

use super::lock::Holder;

/// `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// What went wrong with the bpffs.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The directory can't be made or opened.
    #[error("{action} {path}: {source}; name another directory with --bpffs", path = path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It can't be mounted.
    #[error(
        "mounting a BPF file system at {path}: {source}; mount one with `mount -t bpf bpf {path}` (needs CAP_SYS_ADMIN), or name \
         another with --bpffs",
        path = path.display()
    )]
    Mount {
        /// Where to.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A bpffs with this process as its only loader, until the value is dropped.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    mounted: bool,
    // The open directories are the locks. Fields drop in order, so the one on the bpffs is let go first.
    locks: Vec<OwnedFd>,
}

impl Bpffs {
    /// Locks the bpffs at `path`, and mounts one there if there is none.
    ///
    /// # Errors
    ///
    /// `path` can't be made or locked, or the mount is refused.
    pub fn open_or_mount(path: &Path) -> Result<Self, BpffsError> {
        let directory = |action, source| BpffsError::Directory { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(|source| directory("making the directory", source))?;
        let lower = lock(path)?;
        if is_bpffs_file(&lower).map_err(|error| directory("looking at", error.into()))? {
            return Ok(Self { path: path.to_owned(), mounted: false, locks: vec![lower] });
        }
        // This far the lock is on the directory to mount over, so that of two loaders only one mounts.
        let mounted = !is_bpffs(path).map_err(|source| directory("looking at", source))?;
        if mounted {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("bpf", path, "bpf", flags, c"mode=0700")
                .map_err(|error| BpffsError::Mount { path: path.to_owned(), source: error.into() })?;
            info!("mounted a BPF file system at {}", path.display());
        }
        let locks = vec![lock(path)?, lower];
        Ok(Self { path: path.to_owned(), mounted, locks })
    }

    /// Locks the bpffs at `path` if there is one.
    ///
    /// # Errors
    ///
    /// `path` can't be looked at or locked.
    pub fn open(path: &Path) -> Result<Option<Self>, BpffsError> {
        match is_bpffs(path) {
            Ok(true) => Ok(Some(Self { path: path.to_owned(), mounted: false, locks: vec![lock(path)?] })),
            Ok(false) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BpffsError::Directory { action: "looking at", path: path.to_owned(), source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the mount away again if this call made it.
    pub fn undo(self) {
        if self.mounted {
            drop(self.locks);
            if let Err(error) = rustix::mount::unmount(&self.path, UnmountFlags::DETACH) {
                debug!("unmounting {}: {error}", self.path.display());
            }
        }
    }
}

/// Whether `path` lies on a bpffs.
///
/// # Errors
///
/// `path` can't be looked at.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(has_magic(&rustix::fs::statfs(path)?))
}

/// Whether an open file lies on a bpffs.
fn is_bpffs_file(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(has_magic(&rustix::fs::fstatfs(file)?))
}

fn has_magic(statfs: &StatFs) -> bool {
    // The field's width and sign differ by architecture; the magic number is 32 bits on all of them.
    u32::try_from(statfs.f_type).is_ok_and(|magic| magic == MAGIC)
}

fn lock(path: &Path) -> Result<OwnedFd, BpffsError> {
    let failed =
        |action, error: Errno| BpffsError::Directory { action, path: path.to_owned(), source: error.into() };
    let directory = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("opening", error))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            info!("waiting for another rprox-loader ({}) to finish", Holder::of(&directory));
            rustix::fs::flock(&directory, FlockOperation::LockExclusive)
                .map_err(|error| failed("locking", error))?;
        }
        result => result.map_err(|error| failed("locking", error))?,
    }
    Ok(directory)
}
