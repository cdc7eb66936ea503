//! What the process holds of the machine's memory.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// `/proc/self/status` (proc(5)), kept open: under the load that this is for there may be no descriptor left.
#[derive(Debug)]
pub(super) struct Resident(File);

impl Resident {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// When there is no /proc.
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/self/status").map(Self)
    }

    /// Bytes in memory that are no file's: heap and stacks.
    pub(super) fn bytes(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let length = self.0.read_at(&mut text, 0).ok()?;
        parse(std::str::from_utf8(&text[..length]).ok()?)
    }
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let number = line.trim().strip_suffix(" kB")?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_shows() {
        let resident = Resident::open().unwrap();
        let before = resident.bytes().unwrap();
        let more = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident.bytes().unwrap();
        assert!(after >= before + (32 << 20), "{before} {after} {}", more.len());
    }

    #[test]
    fn kilobytes_are_1024() {
        assert_eq!(parse("VmRSS:\t  9000 kB\nRssAnon:\t    1234 kB\nRssFile: 1 kB\n"), Some(1234 * 1024));
        assert_eq!(parse("VmRSS:\t  9000 kB\n"), None);
    }
}
