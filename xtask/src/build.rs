//! `cargo xtask build`: the kernel programs, then the two programs that are built around them.

pub(crate) mod fixed_metadata;

mod kernel_programs;

use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::programs;

use crate::setup;
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
    kernel_programs::build(&tools)?;
    build_programs(profile)
}

/// Builds the kernel programs here and in another folder, and compares. With `report` the digest goes to standard output.
pub(crate) fn reproduce(report: bool) -> Result<()> {
    let tools = setup::for_building()?;
    kernel_programs::build(&tools)?;
    let digest = kernel_programs::reproduce(&tools)?;
    if report {
        println!("{digest}  target/bpf/rprox-ebpf");
    }
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
