//! Telling who holds a lock.

#![forbid(unsafe_code)]

use std::fmt;

use rustix::fd::OwnedFd;

/// A process that holds a lock, as far as /proc tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<i32>);

impl Holder {
    /// Who holds the lock on `file`.
    #[must_use]
    pub fn of(file: &OwnedFd) -> Self {
        let found = rustix::fs::fstat(file).ok().zip(procfs::locks().ok()).and_then(|(stat, locks)| {
            let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            let on_it =
                |lock: &&procfs::Lock| lock.inode == stat.st_ino && (lock.devmaj, lock.devmin) == device;
            // Those that wait for a lock are listed after the one that holds it.
            locks.iter().find(on_it)?.pid
        });
        Self(found)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            // Of a process in another PID namespace /proc tells no number.
            None => f.write_str("process unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let file = open();
        assert_eq!(Holder::of(&file).to_string(), "process unknown");
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(Holder::of(&open()).to_string(), format!("process {}", std::process::id()));
    }
}
