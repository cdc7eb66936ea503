//! Keeps the folder that rprox lies in out of its symbols' names.
//!
//! Cargo tells the compiler, as `-C metadata`, a digest of where a crate comes from, and for one outside of the workspace (as
//! `rprox-common` is for `rprox-ebpf`) that is its path. The digest is part of every symbol's name, and so of the object. No
//! setting of cargo's changes that; so it calls this program in the compiler's place, which gives our crates their own names for
//! metadata and leaves the rest as it is.

use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Says to this program that it is called in the compiler's place.
const MARK: &str = "RPROX_XTASK_IS_RUSTC";
/// What our crates' names begin with.
const OURS: &str = "rprox_";

/// Has `cargo` call this program in the compiler's place.
pub(super) fn have_cargo_use(cargo: &mut Command) -> Result<()> {
    let this = std::env::current_exe().context("find this program")?;
    cargo.env("RUSTC_WRAPPER", this).env(MARK, "1");
    Ok(())
}

/// Runs the compiler if this program was called in its place; the first argument is its path.
pub(crate) fn run() -> Option<ExitCode> {
    std::env::var_os(MARK)?;
    let arguments = fix(std::env::args_os().skip(1).collect());
    let (compiler, arguments) = arguments.split_first()?;
    match Command::new(compiler).args(arguments).env_remove(MARK).status() {
        Ok(status) => Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into()),
        Err(error) => {
            eprintln!("error: run {}: {error}", compiler.display());
            Some(ExitCode::FAILURE)
        }
    }
}

/// Gives a crate of ours its name for metadata.
fn fix(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let after = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1);
    let name = after("--crate-name").and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if name.starts_with(OURS) {
        for argument in &mut arguments {
            if is_metadata(argument) {
                *argument = format!("metadata={name}").into();
            }
        }
    }
    arguments
}

fn is_metadata(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|argument| argument.starts_with("metadata="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(arguments: &str) -> String {
        let arguments = fix(arguments.split(' ').map(OsString::from).collect());
        arguments.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn only_our_crates_metadata_changes() {
        assert_eq!(
            fixed("rustc --crate-name rprox_ebpf -C metadata=0123 -C extra-filename=-4567"),
            "rustc --crate-name rprox_ebpf -C metadata=rprox_ebpf -C extra-filename=-4567"
        );
        for others in ["rustc --crate-name aya_ebpf -C metadata=0123", "rustc -vV", "rustc"] {
            assert_eq!(fixed(others), others);
        }
    }
}
