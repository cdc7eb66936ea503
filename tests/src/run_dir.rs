//! The directory of one run: configuration, certificates, copies of the programs, and the bpffs that the loader mounts.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::netns::{Unprivileged, is_abandoned, unique_name};

const BPFFS: &str = "bpf";

/// A directory that is deleted with this guard.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the directory, open to every user: the agent runs as one that owns nothing.
    ///
    /// # Errors
    ///
    /// The directory for temporary files is full or not writable.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(unique_name("run"));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(Self { path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where this run's loader mounts its bpffs.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.path.join(BPFFS)
    }

    /// Makes a directory in it that `owner` may write to.
    ///
    /// # Errors
    ///
    /// It could not be made.
    pub fn directory_for(&self, name: &str, owner: Unprivileged) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        chown(&path, Some(owner.id), Some(owner.id))
            .with_context(|| format!("give away {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file that only `owner` may read.
    ///
    /// # Errors
    ///
    /// It could not be written.
    pub fn file_for(&self, name: &str, content: &str, owner: Unprivileged) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(&path, Some(owner.id), Some(owner.id))
            .with_context(|| format!("give away {}", path.display()))?;
        Ok(path)
    }

    /// Copies a program into it: the original may lie where the agent's user can't reach it, below /root for one.
    ///
    /// # Errors
    ///
    /// It could not be copied.
    pub fn copy_of(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.path.join(program.file_name().context("a program has a file name")?);
        fs::copy(program, &copy).with_context(|| format!("copy {}", program.display()))?;
        fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        Ok(copy)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{} stays behind: {error}", self.path.display());
        }
    }
}

/// Removes the directories of runs that were killed before they could.
pub fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned) {
            let _ = remove(&entry.path());
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    // Not mounted is the ordinary case where no loader ran. Mounted twice is two unmounts.
    while unmount(path.join(BPFFS), UnmountFlags::DETACH).is_ok() {}
    fs::remove_dir_all(path)
}
