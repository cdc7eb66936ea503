//! Whether anybody else could put other objects in the place of the pins.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use super::Difference;
use crate::loader::Error;
use crate::loader::pins::{PinError, Pins};

const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;
/// In such a directory only its owner removes or renames a file.
const STICKY: u32 = 0o1000;

pub(super) fn check(pins: &Pins) -> Result<Vec<Difference>, Error> {
    let mut differences = Vec::new();
    for (place, path) in pins.paths()?.iter().enumerate() {
        let metadata = fs::symlink_metadata(path).map_err(|source| PinError::File {
            action: "looking at",
            path: path.clone(),
            source,
        })?;
        // The bpffs itself may be shared, as the kernel mounts it.
        let shared = place == 0 && metadata.mode() & STICKY != 0;
        if let Some(mode) = too_open(metadata.mode()).filter(|_| !metadata.is_symlink() && !shared) {
            differences.push(Difference::new(
                named("mode", path),
                "not writable by group or others",
                format!("{:04o}", metadata.mode() & 0o7777),
                format!("chmod {mode} {}, and find out who changed it", path.display()),
            ));
        }
        if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
            differences.push(Difference::new(
                named("owner", path),
                "root",
                format!("uid {}", metadata.uid()),
                format!("chown root: {}, and find out who changed it", path.display()),
            ));
        }
    }
    Ok(differences)
}

fn named(what: &str, path: &Path) -> String {
    format!("{what} of {}", path.display())
}

/// What to give `chmod` if others may write.
fn too_open(mode: u32) -> Option<&'static str> {
    match (mode & WRITABLE_BY_GROUP != 0, mode & WRITABLE_BY_ALL != 0) {
        (false, false) => None,
        _ => Some("go-w"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writing_by_others_is_too_open() {
        assert_eq!([0o600, 0o644, 0o700, 0o1755].map(too_open), [None; 4]);
        assert_eq!([0o620, 0o602, 0o777].map(too_open), [Some("go-w"); 3]);
    }
}
