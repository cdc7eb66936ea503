//! `cargo xtask test`: every check and test there is, in one go.

mod boundary;
mod licences;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rprox_tests::{command, long, programs};

use crate::build::{self, host_cargo};
use crate::vm::{self, Extent};
use crate::{privilege, setup};

/// The flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                all of it
  cargo xtask test --long         all of it, and what is generated in full: some minutes more
  cargo xtask test --kernel 6.1   under an older kernel, in a virtual machine
  cargo xtask test endpoint       only tests with `endpoint` in their names, without the checks of the source")]
pub(crate) struct Arguments {
    /// Run only the tests whose names contain this, and none of the checks of the source
    filter: Option<String>,

    /// Run only the tests that run in a virtual machine with this kernel, all of them: 6.1
    #[arg(long, value_name = "VERSION", conflicts_with = "filter")]
    kernel: Option<String>,

    /// Run what is generated in full, not a sample of it: 200,000 packets, 5,000 conversations, faults at every step
    #[arg(long)]
    long: bool,
}

/// What runs in the virtual machine alone: this kernel may lack the modules.
const ELSEWHERE: [&str; 3] = ["--", "--skip", "needs_modules::"];

/// Sets up, builds, checks and tests.
pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    setup::for_playing()?;
    setup::for_podman()?;
    build::build(build::Profile::Release)?;
    if let Some(version) = &arguments.kernel {
        return vm::test(version, Extent::Long);
    }
    if arguments.filter.is_none() {
        check_source()?;
        build::reproduce(false)?;
    }
    // The same packages in both calls, so that cargo builds everything with one set of features, and once.
    show("Unit tests", cargo_test().args(["--lib", "--bins"]).args(arguments.filter.as_slice()))?;
    let mut scenarios = cargo_test();
    if arguments.long {
        scenarios.env(long::VARIABLE, "1");
    }
    let mut scenarios = as_root(scenarios, arguments.long)?;
    scenarios.args(["--test", "*"]).args(arguments.filter.as_slice()).args(ELSEWHERE);
    show("Scenarios", &mut scenarios)?;
    if arguments.filter.is_none() {
        vm::test(vm::DEBIAN_12, Extent::Short)?;
    }
    Ok(())
}

fn cargo_test() -> Command {
    let mut command = host_cargo("test");
    command.args(["--workspace", "--locked", "--no-fail-fast"]);
    // The scenarios' errors say where they come from; the backtraces of errors only bury that.
    command.env("RUST_LIB_BACKTRACE", "0");
    command
}

fn check_source() -> Result<()> {
    show("Formatting", host_cargo("fmt").args(["--all", "--check"]))?;
    let kernel_programs = programs::workspace().join("rprox-ebpf/Cargo.toml");
    show(
        "Formatting of the kernel programs",
        host_cargo("fmt").arg("--check").arg("--manifest-path").arg(&kernel_programs),
    )?;
    boundary::check()?;
    licences::check()?;
    let mut clippy = host_cargo("clippy");
    clippy.args(["--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]);
    show("Lints", &mut clippy)?;
    let mut doc = host_cargo("doc");
    doc.args(["--workspace", "--no-deps", "--document-private-items", "--locked"]);
    show("Documentation", doc.env("RUSTDOCFLAGS", "--deny warnings"))?;
    // For this machine, where it is never run: clippy comes with no toolchain that builds for the kernel.
    let mut clippy = host_cargo("clippy");
    clippy.args(["--locked", "--target-dir", "target/bpf/lints", "--manifest-path"]).arg(&kernel_programs);
    show("Lints of the kernel programs", clippy.args(["--", "--deny", "warnings"]))
}

/// Runs `command` with its output in view.
fn show(title: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {title}\n    $ {}", command::line(command));
    let status = command.stdin(Stdio::null()).status().with_context(|| command::line(command))?;
    if !status.success() {
        bail!("{title}: {} ended with {status}", command::line(command));
    }
    Ok(())
}

/// Has cargo run the tests that it builds as root.
fn as_root(mut cargo: Command, is_long: bool) -> Result<Command> {
    if !privilege::is_root() {
        let sudo = privilege::as_root("env", "make the scenarios' network namespaces")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let extent = if is_long { format!(" {}=1", long::VARIABLE) } else { String::new() };
        cargo.env(runner_key(), format!("{} PATH={path}{extent}", command::line(&sudo)));
    }
    Ok(cargo)
}

/// Cargo's variable for the program that runs this machine's executables.
fn runner_key() -> String {
    format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_ascii_uppercase())
}
