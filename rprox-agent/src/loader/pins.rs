//! Where an attachment lives on the bpffs: a directory for each interface, with its maps, programs and links.
//!
//! A bpffs holds pins, directories and symbolic links only, so the few facts that the kernel does not keep for us (which
//! device, how attached) are the targets of symbolic links. They go when the pins go, on detaching or at a reboot.

#![forbid(unsafe_code)]

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rprox_common::LAYOUT;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::linked::Linked;
use super::lock::Holder;
use super::object::Direction;

/// What went wrong on the bpffs.
#[derive(Debug, Error)]
pub enum PinError {
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An object could not be pinned.
    #[error("pinning {path}: {source}", path = path.display())]
    Pin {
        /// Where to.
        path: PathBuf,
        /// What the kernel said.
        source: aya::pin::PinError,
    },
    /// A running service keeps the attachment.
    #[error(
        "{interface}: a running `rprox-loader run` ({holder}) keeps this attachment; stop it first (it detaches when it gets SIGTERM)"
    )]
    Held {
        /// The interface.
        interface: String,
        /// That service.
        holder: Holder,
    },
}

/// What a fact may have of bytes: it is the target of a symbolic link, which has room for `PATH_MAX` (4,096), with a NUL.
pub const NOTE_LEN: usize = 4_000;

/// The device that an attachment is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// The network namespace's inode number.
    pub netns: u64,
    /// The interface's index in it.
    pub index: u32,
}

/// The directory of one interface's attachment, which need not exist.
#[derive(Clone, Debug)]
pub struct Pins {
    interface: String,
    directory: PathBuf,
}

/// A claim on an attachment, as long as the value lives and the process with it.
#[derive(Debug)]
pub struct Claim(rustix::fd::OwnedFd);

impl Claim {
    /// Whether it is on what `pins` are the place of now, not on a directory that was removed or unmounted.
    #[must_use]
    pub fn is_on(&self, pins: &Pins) -> bool {
        let id = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let here = rustix::fs::stat(&pins.directory).map(id);
        here.is_ok() && here == rustix::fs::fstat(&self.0).map(id)
    }
}

// A bpffs reserves names with dots, and interfaces may have them (eth0.100). No interface name holds a colon.
const DOT: &str = ":";

impl Pins {
    /// The place of `interface` under `bpffs`.
    #[must_use]
    pub fn new(bpffs: &Path, interface: &str) -> Self {
        let directory = Self::root(bpffs).join(interface.replace('.', DOT));
        Self { interface: interface.to_owned(), directory }
    }

    /// Every attachment under `bpffs`, by interface name.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    pub fn list(bpffs: &Path) -> Result<Vec<Self>, PinError> {
        let root = Self::root(bpffs);
        let failed = |source| PinError::File { action: "reading", path: root.clone(), source };
        let entries = match fs::read_dir(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().replace(DOT, ".");
            found.push(Self::new(bpffs, &name));
        }
        found.sort_by(|a, b| a.interface.cmp(&b.interface));
        Ok(found)
    }

    /// Where a build whose maps have another layout has attached to the interface.
    #[must_use]
    pub fn of_another_layout(&self) -> Option<PathBuf> {
        let own = self.directory.parent()?;
        let layouts = fs::read_dir(own.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let name = self.directory.file_name()?;
        layouts.filter(|layout| layout != own).map(|layout| layout.join(name)).find(|place| place.exists())
    }

    fn root(bpffs: &Path) -> PathBuf {
        bpffs.join("rprox").join(format!("v{LAYOUT}"))
    }

    /// The interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether there is anything at all.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.directory.exists()
    }

    /// Where the map `name` is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where a program is pinned.
    #[must_use]
    pub fn program(&self, direction: Direction) -> PathBuf {
        self.directory.join(direction.program())
    }

    /// Where a program's TCX link is pinned.
    #[must_use]
    pub fn link(&self, direction: Direction) -> PathBuf {
        self.directory.join(format!("{}_link", direction.program()))
    }

    /// Where a program that is not in the packets' path is pinned.
    #[must_use]
    pub fn program_of(&self, linked: Linked) -> PathBuf {
        self.directory.join(linked.program())
    }

    /// Where the link of such a program is pinned.
    #[must_use]
    pub fn link_of(&self, linked: Linked) -> PathBuf {
        self.directory.join(format!("{}_link", linked.program()))
    }

    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn create(&self) -> Result<(), PinError> {
        // Nobody else has any business in there, and whoever may write there may put other objects in the place of ours.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| self.file("making the directory", source))
    }

    /// The directories that lead to the pins, from the bpffs down, and everything in the last of them.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    pub fn paths(&self) -> Result<Vec<PathBuf>, PinError> {
        let mut paths: Vec<PathBuf> = self.directory.ancestors().take(4).map(Path::to_path_buf).collect();
        paths.reverse();
        for entry in fs::read_dir(&self.directory).map_err(|source| self.file("reading", source))? {
            paths.push(entry.map_err(|source| self.file("reading", source))?.path());
        }
        paths[4..].sort();
        Ok(paths)
    }

    /// Puts `program` in the place of the one pinned for `direction`, if any, in one step.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn put_program(
        &self,
        direction: Direction,
        program: &mut aya::programs::SchedClassifier,
    ) -> Result<(), PinError> {
        self.put(direction.program(), |path| program.pin(path))
    }

    /// Has `pin` pin something in the place of what is pinned as `name`, if anything, in one step.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn put(
        &self,
        name: &str,
        pin: impl FnOnce(&Path) -> Result<(), aya::pin::PinError>,
    ) -> Result<(), PinError> {
        let path = self.directory.join(name);
        let new = self.directory.join(format!("{name}_new"));
        remove_file(&new)?;
        pin(&new).map_err(|source| PinError::Pin { path: new.clone(), source })?;
        fs::rename(&new, &path).map_err(|source| PinError::File { action: "replacing", path, source })
    }

    /// Removes the directory and all in it, and the directories above it that are then empty. What is attached through a
    /// pinned link is detached by it, ingress before egress.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn remove(&self) -> Result<(), PinError> {
        for direction in Direction::DETACH_ORDER {
            remove_file(&self.link(direction))?;
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.file("removing", error)),
            _ => {}
        }
        let root = self.directory.parent().unwrap_or(&self.directory);
        remove_if_empty(root)
    }

    /// Removes the directories that hold attachments under `bpffs`, unless they hold any.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn tidy(bpffs: &Path) -> Result<(), PinError> {
        remove_if_empty(&Self::root(bpffs))
    }

    /// Writes down a fact under `name`, in the place of an older one, in one step.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn note(&self, name: &str, fact: &str) -> Result<(), PinError> {
        if self.noted(name).as_deref() == Some(fact) {
            return Ok(());
        }
        let path = self.directory.join(name);
        let new = self.directory.join(format!("{name}_new"));
        remove_file(&new)?;
        std::os::unix::fs::symlink(fact, &new)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| PinError::File { action: "making the link", path, source })
    }

    /// Removes the fact `name`. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn forget(&self, name: &str) -> Result<bool, PinError> {
        let path = self.directory.join(name);
        let there = path.is_symlink();
        remove_file(&path).map(|()| there)
    }

    /// Reads back a fact.
    #[must_use]
    pub fn noted(&self, name: &str) -> Option<String> {
        Some(fs::read_link(self.directory.join(name)).ok()?.to_str()?.to_owned())
    }

    /// Writes down the device.
    ///
    /// # Errors
    ///
    /// The bpffs refused.
    pub fn note_device(&self, device: DeviceId) -> Result<(), PinError> {
        self.note("device", &format!("{}:{}", device.netns, device.index))
    }

    /// The device that was written down.
    #[must_use]
    pub fn noted_device(&self) -> Option<DeviceId> {
        let noted = self.noted("device")?;
        let (netns, index) = noted.split_once(':')?;
        Some(DeviceId { netns: netns.parse().ok()?, index: index.parse().ok()? })
    }

    /// Claims the attachment for this process.
    ///
    /// # Errors
    ///
    /// Another process has claimed it.
    pub fn claim(&self) -> Result<Claim, PinError> {
        let file = rustix::fs::open(&self.directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| self.file("opening", error.into()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Claim(file)),
            Err(Errno::WOULDBLOCK) => {
                Err(PinError::Held { interface: self.interface.clone(), holder: Holder::of(&file) })
            }
            Err(error) => Err(self.file("locking", error.into())),
        }
    }

    fn file(&self, action: &'static str, source: io::Error) -> PinError {
        PinError::File { action, path: self.directory.clone(), source }
    }
}

/// Removes `root` and the directory that it is in, as far as they are empty.
fn remove_if_empty(root: &Path) -> Result<(), PinError> {
    for directory in root.ancestors().take(2) {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => break,
            Err(error) => {
                let path = directory.to_owned();
                return Err(PinError::File { action: "removing", path, source: error.into() });
            }
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::File { action: "removing", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_dot_reaches_the_bpffs() {
        let pins = Pins::new(Path::new("/bpf"), "eth0.100");
        let link = format!("/bpf/rprox/v{LAYOUT}/eth0:100/rprox_ingress_link");
        assert_eq!(pins.link(Direction::Ingress), Path::new(&link));
        assert_eq!(pins.interface(), "eth0.100");
    }

    #[test]
    fn facts_and_listing_survive_a_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path(), "wlan0.1");
        assert!(!pins.exist());
        pins.create().unwrap();
        let device = DeviceId { netns: 4_026_531_840, index: 7 };
        pins.note_device(DeviceId { netns: 1, index: 1 }).unwrap();
        pins.note_device(device).unwrap();
        let found = Pins::list(directory.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].interface(), "wlan0.1");
        assert_eq!(found[0].noted_device(), Some(device));
        assert_eq!(found[0].noted("hook"), None);
        pins.remove().unwrap();
        pins.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_attachment_of_another_layout_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path(), "eth0.1");
        pins.create().unwrap();
        assert_eq!(pins.of_another_layout(), None);
        let other = directory.path().join("rprox/v0/eth0:1");
        fs::create_dir_all(&other).unwrap();
        assert_eq!(pins.of_another_layout(), Some(other));
    }

    #[test]
    fn a_claim_keeps_others_out() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path(), "eth0");
        pins.create().unwrap();
        let claim = pins.claim().unwrap();
        assert!(pins.claim().unwrap_err().to_string().contains("eth0: a running `rprox-loader run`"));
        drop(claim);
        pins.claim().unwrap();
    }
}
