//! `cargo xtask build`: the kernel programs, then the two programs that are built around them.

pub(crate) mod fixed_metadata;

mod kernel_programs;
mod linking;
mod profile_guided;

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
    /// The same, with rprox-agent optimised by what it runs under load
    Guided,
}

/// The two programs.
const PROGRAMS: [&str; 2] = ["rprox-loader", "rprox-agent"];

/// Builds everything, having set up what that needs.
pub(crate) fn build(profile: Profile) -> Result<()> {
    let tools = setup::for_building()?;
    kernel_programs::build(&tools)?;
    build_programs(profile)?;
    if profile == Profile::Guided {
        profile_guided::build()?;
    }
    Ok(())
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
    let failed = "rprox-loader and rprox-agent do not build";
    let package = ["--locked", "--package", "rprox-agent"];
    if profile == Profile::Debug {
        step.run(host_cargo("build").args(package).arg("--bins")).context(failed)?;
        step.finish("in target/debug");
        return Ok(());
    }
    for program in PROGRAMS {
        let mut cargo = host_cargo("rustc");
        // The flags are the last crate's alone, so that macros still build and all else is shared with other builds.
        cargo.args(package).args(["--release", "--bin", program, "--"]).args(linking::flags());
        step.run(&mut cargo).context(failed)?;
    }
    step.finish("in target/release");
    Ok(())
}

/// The cargo that runs us, in the workspace.
pub(crate) fn host_cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(programs::workspace());
    command
}
