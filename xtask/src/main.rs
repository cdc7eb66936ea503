//! `cargo xtask`: rprox's chores.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod image;
mod interrupt;
mod package;
mod privilege;
mod run;
mod setup;
mod steps;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// rprox's chores: set up, build, run and test.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what building and testing need; each step is skipped where it is done already
    Setup,
    /// Build the kernel programs, then rprox-loader and rprox-agent with them
    Build {
        /// Build the two programs without optimisation, into target/debug
        #[arg(long)]
        debug: bool,

        /// Optimise rprox-agent by what it runs under the benchmark's load: takes three times as long, and root
        #[arg(long, conflicts_with = "debug")]
        profile_guided: bool,

        /// Build only the kernel programs, here and once more in another folder, and compare: writes the object's SHA-256, or
        /// fails where the two differ
        #[arg(long, conflicts_with_all = ["debug", "profile_guided"])]
        reproducible: bool,
    },
    /// Run rprox: in a playground of network namespaces, or on a real interface
    Run(run::Arguments),
    /// Build the container images localhost/rprox-agent and localhost/rprox-loader with the Podman of who calls this; no registry is
    /// needed
    Image {
        /// Take the programs as they are in target/release
        #[arg(long)]
        prebuilt: bool,
    },
    /// Make a Debian package of the loader and a tarball of both programs, in target/package
    Package(package::Arguments),
    /// Check and test everything
    Test(test::Arguments),
    /// Measure rprox beside its peers
    Bench(bench::Arguments),
    /// A client of the benchmark
    #[command(hide = true)]
    BenchEnd(bench::ends::Arguments),
}

fn main() -> ExitCode {
    if let Some(code) = build::fixed_metadata::run() {
        return code;
    }
    match Arguments::parse().chore.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Chore {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Setup => setup::everything()?,
            Self::Build { reproducible: true, .. } => build::reproduce(true)?,
            Self::Build { debug: true, .. } => build::build(build::Profile::Debug)?,
            Self::Build { profile_guided: true, .. } => build::build(build::Profile::Guided)?,
            Self::Build { .. } => build::build(build::Profile::Release)?,
            Self::Run(arguments) => return run::run(&arguments),
            Self::Image { prebuilt } => image::build(prebuilt)?,
            Self::Package(arguments) => package::package(&arguments)?,
            Self::Test(arguments) => test::test(&arguments)?,
            Self::Bench(arguments) => return bench::bench(&arguments),
            Self::BenchEnd(arguments) => bench::ends::act(&arguments)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
