//! The folder for what must outlive the process: keys and certificates, its owner's alone.

#![forbid(unsafe_code)]

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes that [`StateFolder::try_out`] writes: a certificate with its chain and key is smaller.
const TRIAL: usize = 16 << 10;

/// Why the folder does not serve.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {}: {error}; the agent's user must own it and be able to write to it (state = \"FOLDER\")", path.display())]
pub struct StateError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// A folder of mode 0700, with files of mode 0600 in it.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

/// The one that systemd made for the service, or the user's own.
#[must_use]
pub fn default_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folders) = set("STATE_DIRECTORY") {
        return env::split_paths(&folders).next();
    }
    let home = || set("HOME").map(|home| Path::new(&home).join(".local/state"));
    set("XDG_STATE_HOME").map(PathBuf::from).or_else(home).map(|folder| folder.join("rprox"))
}

impl StateFolder {
    /// Makes the folder, if it isn't there, and takes everybody else's permissions from it.
    ///
    /// # Errors
    ///
    /// When it can't be made, or is somebody else's.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let permissions = fs::metadata(path).map_err(failed)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// Finds out whether a file can be written, by writing one.
    ///
    /// # Errors
    ///
    /// When it can't.
    pub fn try_out(&self) -> Result<(), StateError> {
        const NAME: &str = ".trial";
        self.write(NAME, &[0; TRIAL])?;
        self.remove(NAME)
    }

    /// Where the file `name` is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The file `name`, if it is there.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError { path: self.path(name), error }),
        }
    }

    /// Removes the file `name`, if it is there.
    ///
    /// # Errors
    ///
    /// When it can't be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError { path: self.path(name), error })
            }
            _ => Ok(()),
        }
    }

    /// Replaces the file `name`: whatever happens meanwhile, a reader finds all of the old one or all of the new one, and
    /// after a return all of the new one is on the disk.
    ///
    /// # Errors
    ///
    /// When it can't be written; the old one is then as it was.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let temporary = self.path(&format!(".{name}.{}", std::process::id()));
        self.replace(&temporary, name, bytes).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            StateError { path: self.path(name), error }
        })
    }

    fn replace(&self, temporary: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
        // What a process with our number left when it was killed.
        if let Err(error) = fs::remove_file(temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, self.path(name))?;
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_its_owner_s_alone_and_whole() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/state");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let folder = StateFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(folder.read("key").unwrap(), None);
        for text in ["one", "two"] {
            folder.write("key", text.as_bytes()).unwrap();
            assert_eq!(folder.read("key").unwrap().unwrap(), text.as_bytes());
        }
        assert_eq!(mode(&folder.path("key")), 0o600);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "no temporary file is left");

        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        StateFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn trying_it_out_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(parent.path()).unwrap();
        folder.try_out().unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        fs::remove_dir(parent.path()).unwrap();
        assert!(folder.try_out().is_err());
    }

    #[test]
    fn a_file_that_can_t_be_replaced_stays() {
        let parent = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(parent.path()).unwrap();
        fs::create_dir(folder.path("key")).unwrap();
        let error = folder.write("key", b"x").unwrap_err().to_string();
        assert!(error.contains("state folder"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
