//! `cargo xtask build`: the kernel programs, then the two programs that are built around them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::programs;

use crate::setup::{self, ForBuilding};
use crate::steps::Step;

/// How the two programs are built; the kernel's always are optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `target/debug`
    Debug,
    /// `target/release`
    Release,
}

/// Builds everything, having set up what that needs.
pub(crate) fn build(profile: Profile) -> Result<()> {
    let tools = setup::for_building()?;
    build_kernel_programs(&tools)?;
    build_programs(profile)
}

fn build_kernel_programs(tools: &ForBuilding) -> Result<()> {
    let step = Step::begin("Build the kernel programs");
    let source = programs::workspace().join("rprox-ebpf");
    let folder = programs::workspace().join("target/bpf");
    // Apart for each toolchain: cargo would build all anew at every change between them.
    let target = folder.join(tools.toolchain.origin.name());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(tools.linker.clone()).chain(std::env::split_paths(&path));
    let mut cargo = tools.toolchain.cargo_build();
    cargo
        .args(["--locked", "--target-dir"])
        .arg(&target)
        .current_dir(&source)
        .env("PATH", std::env::join_paths(path)?)
        .env("RUSTFLAGS", "-C linker=bpf-linker -C debuginfo=2 -C link-arg=--btf");
    step.run(&mut cargo).context("the kernel programs do not build")?;

    let built = target.join("bpfel-unknown-none/release/rprox-ebpf");
    let object = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let kept = folder.join("rprox-ebpf");
    // Written only where it differs: cargo builds the loader again for a newer file.
    let changed = fs::read(&kept).map_or(true, |old| old != object);
    if changed {
        fs::write(&kept, &object).with_context(|| format!("write {}", kept.display()))?;
    }
    step.finish(if changed { "built" } else { "unchanged" });
    Ok(())
}

fn build_programs(profile: Profile) -> Result<()> {
    let step = Step::begin("Build rprox-loader and rprox-agent");
    let mut cargo = host_cargo("build");
    cargo.args(["--locked", "--package", "rprox-agent", "--bins"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    step.run(&mut cargo).context("rprox-loader and rprox-agent do not build")?;
    step.finish(if profile == Profile::Release { "in target/release" } else { "in target/debug" });
    Ok(())
}

/// The cargo that runs us, in the workspace.
pub(crate) fn host_cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(programs::workspace());
    command
}
