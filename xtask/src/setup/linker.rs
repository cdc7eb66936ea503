//! bpf-linker, built against an LLVM at least as new as the toolchain's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::{command, programs};

use super::apt;
use crate::steps::Step;

const VERSION: &str = "0.13.0";
/// The LLVMs that this version of bpf-linker builds with.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Whether there is a bpf-linker for code of `llvm`, or one can be built.
pub(super) fn can_be_had(llvm: u32) -> bool {
    find(llvm).is_some() || choices(llvm).any(|llvm| has_headers(llvm) || apt::offers(&packages(llvm)[0]))
}

/// Finds bpf-linker, or builds it. Returns its folder.
pub(super) fn set_up(llvm: u32) -> Result<PathBuf> {
    let step = Step::begin("bpf-linker");
    if let Some(folder) = find(llvm) {
        step.finish(&format!("in {}", folder.display()));
        return Ok(folder);
    }
    let chosen = choices(llvm)
        .find(|llvm| has_headers(*llvm))
        .or_else(|| choices(llvm).find(|llvm| apt::offers(&packages(*llvm)[0])))
        .with_context(|| format!("bpf-linker {VERSION} needs LLVM {llvm} or newer, with headers"))?;
    let mut missing: Vec<String> = if has_headers(chosen) { vec![] } else { packages(chosen).into() };
    if programs::find("c++").is_none() {
        missing.push("g++".to_owned());
    }
    if !missing.is_empty() {
        apt::install(&step, &missing)?;
    }
    let root = root(chosen);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{chosen}"), "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", prefix(chosen))
        // llvm-sys names its variable for LLVM's major and minor version.
        .env(format!("LLVM_SYS_{chosen}1_PREFIX"), prefix(chosen));
    step.run(&mut install)?;
    step.finish(&format!("built with LLVM {chosen}"));
    Ok(root.join("bin"))
}

/// The folder of a bpf-linker that can link code of `llvm`: ours, or one on the search path.
fn find(llvm: u32) -> Option<PathBuf> {
    let ours = choices(llvm).map(|llvm| root(llvm).join("bin/bpf-linker")).find(|linker| linker.exists());
    let theirs = || programs::find("bpf-linker").filter(|linker| is_new_enough(linker, llvm));
    ours.or_else(theirs)?.parent().map(Path::to_path_buf)
}

fn is_new_enough(linker: &Path, llvm: u32) -> bool {
    let version = command::run(Command::new(linker).arg("--version")).unwrap_or_default();
    let version = version.trim().strip_prefix("bpf-linker ").map(numbers).unwrap_or_default();
    // One that has LLVM within it tells no version of it: it was made by who chose its LLVM.
    let libraries = command::run(Command::new("ldd").arg(linker)).unwrap_or_default();
    let its_llvm =
        libraries.split("libLLVM.so.").nth(1).map(numbers).and_then(|numbers| numbers.first().copied());
    version >= numbers(VERSION) && its_llvm.is_none_or(|its| its >= llvm)
}

/// The leading numbers of a dotted version.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', ' ', '-']).map_while(|number| number.parse().ok()).collect()
}

fn choices(llvm: u32) -> impl Iterator<Item = u32> {
    LLVMS.filter(move |choice| *choice >= llvm)
}

fn root(llvm: u32) -> PathBuf {
    programs::tools().join(format!("llvm-{llvm}"))
}

fn prefix(llvm: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{llvm}"))
}

fn has_headers(llvm: u32) -> bool {
    prefix(llvm).join("include/llvm-c").is_dir() && prefix(llvm).join("include/clang-c").is_dir()
}

fn packages(llvm: u32) -> [String; 2] {
    [format!("llvm-{llvm}-dev"), format!("libclang-{llvm}-dev")]
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("0.13.0") > numbers("0.9.15"));
        assert_eq!(numbers("22.1 => /usr/lib/llvm-22"), [22, 1]);
    }
}
