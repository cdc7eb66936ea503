//! The files of a package, as they are to be laid out, with the modes that they are to have.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::{command, programs};

/// A folder that becomes a package.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty one at `root`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("empty {}", root.display()))?;
        }
        let tree = Self { root: root.to_path_buf() };
        tree.make(root)?;
        Ok(tree)
    }

    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Writes a file.
    pub(super) fn write(&self, to: &str, content: &str) -> Result<()> {
        let to = self.place(to)?;
        fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
        mode(&to, 0o644)
    }

    /// Copies a file, or a folder with all in it.
    pub(super) fn add(&self, from: &Path, to: &str) -> Result<()> {
        if from.is_dir() {
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                self.add(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
            }
            return Ok(());
        }
        let to = self.place(to)?;
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        mode(&to, 0o644)
    }

    /// Copies a script that is to be run.
    pub(super) fn add_script(&self, from: &Path, to: &str) -> Result<()> {
        self.add(from, to)?;
        mode(&self.root.join(to), 0o755)
    }

    /// Copies a program without what only a debugger reads.
    pub(super) fn add_program(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.place(to)?;
        command::run(Command::new("strip").arg("-o").arg(&to).arg(from))?;
        mode(&to, 0o755)
    }

    /// Compresses a file, the same way each time.
    pub(super) fn compress(&self, file: &str) -> Result<()> {
        command::run(Command::new("gzip").arg("-9n").arg(self.root.join(file))).map(drop)
    }

    /// The bytes in all its files.
    pub(super) fn size(&self) -> Result<u64> {
        size(&self.root)
    }

    fn place(&self, to: &str) -> Result<PathBuf> {
        let place = self.root.join(to);
        self.make(place.parent().unwrap_or(&self.root))?;
        Ok(place)
    }

    /// Makes `folder`, and those above it that are missing, open to everybody.
    fn make(&self, folder: &Path) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if folder != self.root {
            self.make(folder.parent().unwrap_or(&self.root))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        mode(folder, 0o755)
    }
}

/// The date of every file in a package, in seconds: the last commit's, so that the same sources give the same package.
pub(super) fn date() -> String {
    if let Ok(date) = std::env::var("SOURCE_DATE_EPOCH") {
        return date;
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(programs::workspace());
    command::run(&mut git).map_or_else(|_| "0".to_owned(), |date| date.trim().to_owned())
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn size(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}
