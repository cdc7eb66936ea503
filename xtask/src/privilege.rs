//! Root: who has it, and how to get it.

use std::ffi::OsStr;
use std::io::{IsTerminal, stdin};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs `program` as root, by sudo if need be. `purpose` says what for: "install packages".
pub(crate) fn as_root(program: &str, purpose: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    sudo(purpose)?;
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Has sudo ask for a password now, while nothing else writes to the terminal.
fn sudo(purpose: &str) -> Result<()> {
    if programs::find("sudo").is_none() {
        bail!("root is needed to {purpose}, and there is no sudo: run this command as root");
    }
    eprintln!("    root is needed to {purpose}: using sudo");
    let mut sudo = Command::new("sudo");
    // Without a terminal it can't ask, and would wait for ever.
    sudo.args(if stdin().is_terminal() { &["--validate"][..] } else { &["--non-interactive", "--validate"] });
    let status = sudo.status().context("run sudo")?;
    if !status.success() {
        bail!("sudo refused; root is needed to {purpose}");
    }
    Ok(())
}

/// Runs this program again as root with `arguments`, and returns how that ended.
pub(crate) fn again_as_root<'a>(
    arguments: impl Iterator<Item = &'a OsStr>,
    purpose: &str,
) -> Result<ExitCode> {
    sudo(purpose)?;
    let mut command = Command::new("sudo");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["--", "env", &format!("PATH={path}")]).arg(std::env::current_exe()?).args(arguments);
    let status = command.status().with_context(|| command::line(&command))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
