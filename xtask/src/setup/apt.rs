//! Debian packages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};

use crate::privilege;
use crate::steps::Step;

/// Whether this system has apt.
pub(crate) fn is_here() -> bool {
    programs::find("apt-get").is_some()
}

/// Whether apt offers `package`, as far as its lists tell.
pub(crate) fn offers(package: &str) -> bool {
    let policy = command::run(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
}

/// Fetches the package lists, once in this process: a fresh machine has none.
pub(crate) fn update(step: &Step) -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        outcome = apt("read the package lists").and_then(|mut apt| step.run(apt.arg("update")));
    });
    outcome.context("run `apt-get update`")
}

/// Installs `packages`.
pub(crate) fn install(step: &Step, packages: &[String]) -> Result<()> {
    let wanted = packages.join(" ");
    let by_hand = format!("run as root: apt-get update && apt-get install --no-install-recommends {wanted}");
    if !is_here() {
        bail!("this system has no apt; install what Debian calls: {wanted}");
    }
    update(step).with_context(|| by_hand.clone())?;
    let mut apt = apt(&format!("install {wanted}")).with_context(|| by_hand.clone())?;
    step.run(apt.args(["install", "--yes", "--no-install-recommends"]).args(packages)).context(by_hand)
}

/// The packages of those programs, given with their packages, that are missing.
pub(crate) fn missing(programs: &[(&str, &str)]) -> Vec<String> {
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|(program, _)| programs::find(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    missing.dedup();
    missing
}

/// Installs the packages of those programs that are missing, and says what it did.
pub(crate) fn install_missing(step: &Step, programs: &[(&str, &str)]) -> Result<String> {
    let missing = missing(programs);
    if !missing.is_empty() {
        install(step, &missing)?;
    }
    Ok(installed(&missing))
}

/// What was done, once `packages` are installed.
pub(crate) fn installed(packages: &[String]) -> String {
    if packages.is_empty() { "all there".to_owned() } else { format!("installed {}", packages.join(" ")) }
}

/// Unpacks `package` beside the other tools and installs the libraries that it needs, but nothing else that it depends on:
/// for a package that would start a service, now and at every boot.
pub(crate) fn unpack(step: &Step, package: &str) -> Result<()> {
    update(step)?;
    let folder = programs::tools().join(package);
    let download = programs::tools().join(format!("{package}-download"));
    fs::create_dir_all(&download)?;
    step.run(Command::new("apt-get").args(["download", package]).current_dir(&download))?;
    for entry in fs::read_dir(&download)? {
        let file = entry?.path();
        let libraries = libraries(&file)?;
        if !libraries.is_empty() {
            install(step, &libraries)?;
        }
        step.run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&folder))?;
    }
    Ok(fs::remove_dir_all(&download)?)
}

/// The libraries that the package in `file` depends on; of alternatives the first.
fn libraries(file: &Path) -> Result<Vec<String>> {
    let depends = command::run(Command::new("dpkg-deb").arg("--field").arg(file).arg("Depends"))?;
    let names = depends.split(',').filter_map(|one| one.trim().split(['|', ' ', '(', ':']).next());
    Ok(names.filter(|name| name.starts_with("lib")).map(str::to_owned).collect())
}

fn apt(purpose: &str) -> Result<Command> {
    let mut command = privilege::as_root("env", purpose)?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    Ok(command)
}
