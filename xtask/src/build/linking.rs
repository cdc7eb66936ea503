//! How the two programs are linked.

use std::process::Command;

use rprox_tests::command;

/// Statically: one program for a container without anything else, and for hosts with any C library.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// With the places that the program puts its own address into when it starts written as bits (`DT_RELR`), not as 24 bytes each: half a
/// megabyte less to keep and to read.
const PACKED: &str = "-Clink-arg=-Wl,-z,pack-relative-relocs";

/// The first glibc whose programs understand that.
const UNDERSTANDS_PACKED: (u32, u32) = (2, 36);

/// The flags for rustc.
pub(super) fn flags() -> Vec<&'static str> {
    let is_packed = glibc().is_some_and(|version| version >= UNDERSTANDS_PACKED);
    [Some(STATIC), is_packed.then_some(PACKED)].into_iter().flatten().collect()
}

/// The version of this machine's, which becomes part of the programs.
fn glibc() -> Option<(u32, u32)> {
    parse(&command::run(Command::new("ldd").arg("--version")).ok()?)
}

/// Of `ldd (Debian GLIBC 2.36-9+deb12u13) 2.36`.
fn parse(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.lines().next()?.rsplit(' ').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_last_word() {
        assert_eq!(parse("ldd (Debian GLIBC 2.36-9+deb12u13) 2.36\nCopyright\n"), Some((2, 36)));
        assert_eq!(parse("ldd (GNU libc) 2.9\n"), Some((2, 9)));
        assert_eq!(parse("musl libc (x86_64)\nVersion 1.2.4\n"), None);
    }
}
