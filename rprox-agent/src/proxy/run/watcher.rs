//! Notices that files have changed.
//!
//! Folders are watched and not the files: editors replace a file by renaming another over it, and Kubernetes swaps a symbolic
//! link a level above. What counts is whether another file, or one changed since, is now found by a path. On filesystems
//! that tell nobody (network mounts, some volumes) that is looked at from time to time.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Changes come in groups, a certificate and its key or a file written in pieces: how long it must have been quiet.
const QUIET: Duration = Duration::from_millis(200);

/// How often to look where nothing tells.
const LOOK: Duration = Duration::from_secs(10);

/// How many links a path may go through, as in the kernel.
const MOST_LINKS: usize = 40;

/// What a path leads to, if to anything: device, inode, size and the time of its last change, also of its owner or mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(Option<(u64, u64, u64, i64, i64)>);

/// A file to watch, with how it was when it was last read. `None`: it has not changed since.
pub type Watched = (PathBuf, Option<Mark>);

/// Watches a set of files.
pub struct Watcher {
    inotify: Receiver,
    folders: BTreeMap<PathBuf, i32>,
    files: BTreeMap<PathBuf, Mark>,
    /// Whether there was news since the files were last looked at.
    stirred: bool,
    /// When to look at them without news.
    look: Instant,
}

impl Watcher {
    /// A watcher of nothing.
    ///
    /// # Errors
    ///
    /// When the kernel has no inotify instance left for this user.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // Not a pipe, but read like one, which is all that tokio does with it.
        let inotify = Receiver::from_owned_fd_unchecked(inotify)?;
        Ok(Self {
            inotify,
            folders: BTreeMap::new(),
            files: BTreeMap::new(),
            stirred: false,
            look: Instant::now() + LOOK,
        })
    }

    /// Watches these files from now on, and no others. One that is watched already is compared with how it was last seen,
    /// so that no change is missed between two calls.
    pub fn watch(&mut self, files: impl IntoIterator<Item = Watched>) {
        let before = std::mem::take(&mut self.files);
        for (file, read) in files {
            let seen = before.get(&file).copied().or(read).unwrap_or_else(|| Mark::of(&file));
            self.files.entry(file).or_insert(seen);
        }
        self.follow_links();
        // Of what was before its folder was watched nobody tells.
        self.stirred |= self.files.iter().any(|(file, seen)| Mark::of(file) != *seen);
    }

    /// Waits until a file has changed, and then until all is quiet for a moment. What has changed by then is told once.
    /// Where the wait is broken off it can be taken up again.
    pub async fn changed(&mut self) {
        loop {
            while !self.stirred {
                if let Ok(Err(_)) = timeout_at(self.look, self.told()).await {
                    sleep_until(self.look).await;
                }
                self.stirred = true;
            }
            while timeout(QUIET, self.told()).await.is_ok_and(|told| told.is_ok()) {}
            self.stirred = false;
            self.look = Instant::now() + LOOK;
            self.follow_links();
            let mut changed = false;
            for (file, seen) in &mut self.files {
                let now = Mark::of(file);
                changed |= *seen != now;
                *seen = now;
            }
            if changed {
                return;
            }
        }
    }

    /// Waits for any news, and takes all there is.
    async fn told(&self) -> io::Result<()> {
        // What exactly happened where does not matter.
        let mut events = [0; 4096];
        loop {
            self.inotify.readable().await?;
            let mut any = false;
            loop {
                match self.inotify.try_read(&mut events) {
                    Ok(_) => any = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if any {
                return Ok(());
            }
        }
    }

    /// Watches the folders that the files are found through now.
    fn follow_links(&mut self) {
        let wanted: BTreeSet<PathBuf> = self.files.keys().flat_map(|file| folders(file)).collect();
        self.folders.retain(|folder, number| {
            let stays = wanted.contains(folder);
            if !stays {
                // One that is gone has taken its watch with it.
                let _ = inotify::remove_watch(&self.inotify, *number);
            }
            stays
        });
        let events = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for folder in wanted {
            // Adding one again does nothing, unless another folder has taken its place.
            if let Ok(number) = inotify::add_watch(&self.inotify, &folder, events) {
                self.folders.insert(folder, number);
            }
        }
    }
}

impl Mark {
    /// How `file` is now.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        let found = fs::metadata(file).ok();
        Self(found.map(|found| (found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec())))
    }
}

/// The folders in which a change can make `file` another: its own, and that of each link on the way to it.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    folders.extend(path.parent().map(Path::to_owned));
    for _ in 0..MOST_LINKS {
        let link = path.ancestors().filter(|part| part.is_symlink()).last().map(Path::to_owned);
        let Some((link, target)) = link.and_then(|link| Some((link.clone(), fs::read_link(link).ok()?)))
        else {
            break;
        };
        let Some(folder) = link.parent() else { break };
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        folders.insert(folder.to_owned());
        path = folder.join(target);
        if rest != Path::new("") {
            path.push(rest);
        }
        folders.extend(path.parent().map(Path::to_owned));
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    fn notices(change: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("file"), text).unwrap();
        }
        symlink("v1", folder.join("..data")).unwrap();
        symlink("..data/file", folder.join("link")).unwrap();
        fs::write(folder.join("plain"), "one").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = Watcher::new().unwrap();
            watcher.watch([folder.join("plain"), folder.join("link")].map(|file| (file, None)));
            change(&folder);
            timeout(LOOK / 2, watcher.changed()).await.expect("it is noticed without looking");
            assert!(timeout(QUIET * 2, watcher.changed()).await.is_err(), "and once");
        });
    }

    #[test]
    fn a_file_that_is_written_is_noticed() {
        notices(|folder| fs::write(folder.join("plain"), "two").unwrap());
    }

    #[test]
    fn a_file_that_is_renamed_over_another_is_noticed() {
        notices(|folder| {
            fs::write(folder.join("new"), "two").unwrap();
            fs::rename(folder.join("new"), folder.join("plain")).unwrap();
        });
    }

    #[test]
    fn a_link_on_the_way_that_is_swapped_is_noticed() {
        notices(|folder| {
            symlink("v2", folder.join("..new")).unwrap();
            fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
        });
    }

    #[test]
    fn a_file_behind_links_that_is_written_is_noticed() {
        notices(|folder| fs::write(folder.join("v1/file"), "changed").unwrap());
    }

    #[test]
    fn a_change_between_reading_and_watching_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let read = Mark::of(&file);
        fs::write(&file, "one").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watcher = Watcher::new().unwrap();
            watcher.watch([(file, Some(read))]);
            timeout(LOOK / 2, watcher.changed()).await.expect("it is noticed without looking");
            assert!(timeout(QUIET * 2, watcher.changed()).await.is_err(), "and once");
        });
    }

    #[test]
    fn a_file_that_goes_and_comes_is_noticed() {
        notices(|folder| {
            fs::remove_file(folder.join("plain")).unwrap();
            fs::write(folder.join("plain"), "two").unwrap();
        });
    }
}
