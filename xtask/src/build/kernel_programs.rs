//! The kernel programs' object, the same from the same sources and toolchain in whichever folder it is built.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rprox_tests::programs;
use sha2::{Digest as _, Sha256};

use super::fixed_metadata;
use crate::setup::ForBuilding;
use crate::steps::Step;

/// What the object is made of: the programs, what they share with the loader, and the workspace that this takes its version from.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "rprox-common",
    "rprox-ebpf/Cargo.toml",
    "rprox-ebpf/Cargo.lock",
    "rprox-ebpf/src",
];

/// Builds the object into `target/bpf/rprox-ebpf`.
pub(super) fn build(tools: &ForBuilding) -> Result<()> {
    let step = Step::begin("Build the kernel programs");
    // Apart for each toolchain: cargo would build all anew at every change between them.
    let target = programs::workspace().join("target/bpf").join(tools.toolchain.origin.name());
    let object = compile(&step, tools, &programs::workspace(), &target)?;
    let kept = kept();
    // Written only where it differs: cargo builds the loader again for a newer file.
    let changed = fs::read(&kept).map_or(true, |old| old != object);
    if changed {
        fs::write(&kept, &object).with_context(|| format!("write {}", kept.display()))?;
    }
    step.finish(if changed { "built" } else { "unchanged" });
    Ok(())
}

/// Builds the object once more, from a copy of the sources in another folder, and compares it with the kept one. Returns the
/// SHA-256.
pub(super) fn reproduce(tools: &ForBuilding) -> Result<String> {
    let step = Step::begin("Build the kernel programs in another folder");
    let folder = tempfile::tempdir().context("make a folder to build in")?;
    let root = folder.path().join("some where else");
    for source in SOURCES {
        copy(&programs::workspace().join(source), &root.join(source))?;
    }
    let there = compile(&step, tools, &root, &folder.path().join("target"))?;
    let kept = kept();
    let here = fs::read(&kept).with_context(|| format!("read {}", kept.display()))?;
    if here != there {
        let other = kept.with_extension("other");
        fs::write(&other, &there).with_context(|| format!("write {}", other.display()))?;
        bail!(
            "the object depends on the folder it is built in: {} (SHA-256 {}) and {} (SHA-256 {}) differ",
            kept.display(),
            digest(&here),
            other.display(),
            digest(&there)
        );
    }
    let digest = digest(&here);
    step.finish(&format!("the same, SHA-256 {digest}"));
    Ok(digest)
}

fn kept() -> PathBuf {
    programs::workspace().join("target/bpf/rprox-ebpf")
}

fn digest(object: &[u8]) -> String {
    format!("{:x}", Sha256::digest(object))
}

/// Compiles the sources under `root`, and returns the object.
fn compile(step: &Step, tools: &ForBuilding, root: &Path, target: &Path) -> Result<Vec<u8>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(tools.linker.clone()).chain(std::env::split_paths(&path));
    let mut cargo = tools.toolchain.cargo_build();
    cargo
        .args(["--locked", "--target-dir"])
        .arg(target)
        .current_dir(root.join("rprox-ebpf"))
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root)?);
    fixed_metadata::have_cargo_use(&mut cargo)?;
    step.run(&mut cargo).context("the kernel programs do not build")?;
    let built = target.join("bpfel-unknown-none/release/rprox-ebpf");
    fs::read(&built).with_context(|| format!("read {}", built.display()))
}

/// The compiler's flags, as cargo takes them where they may hold spaces. The debug information, which BTF is made from, names
/// no folder of this machine.
fn rustflags(root: &Path) -> Result<OsString> {
    let root = root.canonicalize().with_context(|| format!("find {}", root.display()))?;
    let mut flags: OsString =
        ["-Clinker=bpf-linker", "-Cdebuginfo=2", "-Clink-arg=--btf", UNALIGNED].join(SEPARATOR).into();
    let mut remap = |folder: &Path, name: &str| {
        flags.push(SEPARATOR);
        flags.push("--remap-path-prefix=");
        flags.push(folder);
        flags.push(format!("={name}"));
    };
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let folder =
        |variable, default| std::env::var_os(variable).map_or_else(|| home.join(default), PathBuf::from);
    remap(&folder("CARGO_HOME", ".cargo"), "/cargo");
    remap(&folder("RUSTUP_HOME", ".rustup"), "/rustup");
    // The last that fits wins.
    remap(&root, "/rprox");
    Ok(flags)
}

/// Fields of headers are read by one instruction each, wherever they are, instead of byte by byte: the kernel's machines and its
/// verifier take that. Known to LLVM 22 and later; earlier ones say that they ignore it.
const UNALIGNED: &str = "-Clink-arg=--cpu-features=+allows-misaligned-mem-access";

/// Between the flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Copies a file, or a folder with all in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("copy {} to {}", from.display(), to.display());
    if !from.is_dir() {
        fs::create_dir_all(to.parent().unwrap_or(to)).with_context(failed)?;
        return fs::copy(from, to).map(drop).with_context(failed);
    }
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
