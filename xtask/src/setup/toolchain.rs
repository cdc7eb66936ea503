//! A Rust toolchain that can build for the kernel: it needs `core` for bpfel-unknown-none, which rustup does not ship.
//!
//! Either rustup's nightly builds `core` from the `rust-src` component, or Debian's rustc-web brings it compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use rprox_tests::{command, programs};

use super::{apt, linker};
use crate::steps::Step;

const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Chooses a toolchain (`rustup` or `debian`) where both are there.
const CHOICE: &str = "RPROX_BPF_TOOLCHAIN";

/// A toolchain and the major version of its LLVM, which bpf-linker's must not be older than.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Toolchain {
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// LLVM's major version.
    pub(crate) llvm: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// rustup's nightly with `rust-src`.
    Rustup,
    /// Debian's packages.
    Debian,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    fn find(self) -> Option<Toolchain> {
        let wanted = std::env::var(CHOICE).unwrap_or_default();
        if !wanted.is_empty() && wanted != self.name() {
            return None;
        }
        let llvm = match self {
            Self::Rustup => rustup_llvm(),
            Self::Debian => debian_llvm(),
        }?;
        Some(Toolchain { origin: self, llvm })
    }
}

impl Toolchain {
    /// The command for `cargo build` of the kernel programs, without the environment that rustup and cargo gave to us.
    pub(crate) fn cargo_build(self) -> Command {
        let mut command = match self.origin {
            Origin::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                command
            }
            Origin::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.arg("build");
                command
            }
        };
        clear_environment(&mut command);
        if self.origin == Origin::Debian {
            // aya-ebpf uses unstable features.
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        }
        command.args(["--release", "--target", "bpfel-unknown-none"]);
        command
    }
}

/// Takes from `command` what cargo and rustup set for this process and would lead another toolchain astray.
fn clear_environment(command: &mut Command) {
    const KEPT: [&str; 3] = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_AUTO_INSTALL"];
    const KEPT_PREFIXES: [&str; 4] = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("CARGO") || text.starts_with("RUST");
        if ours && !KEPT.contains(&&*text) && !KEPT_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// Finds a toolchain, or installs one.
pub(crate) fn set_up() -> Result<Toolchain> {
    let step = Step::begin("Rust toolchain for the kernel programs");
    let found = [Origin::Rustup, Origin::Debian].into_iter().filter_map(Origin::find);
    if let Some(toolchain) = found.clone().find(|toolchain| linker::can_be_had(toolchain.llvm)) {
        step.finish(&format!("{} with LLVM {}", toolchain.origin.describe(), toolchain.llvm));
        return Ok(toolchain);
    }
    // Debian's first: its LLVM is the one that its llvm-dev packages have, while a nightly's may be too new for any.
    let mut failures = Vec::new();
    for (origin, install) in
        [(Origin::Debian, install_debian as fn(&Step) -> Result<()>), (Origin::Rustup, install_rustup)]
    {
        match install(&step).map(|()| origin.find()) {
            Ok(Some(toolchain)) if linker::can_be_had(toolchain.llvm) => {
                step.finish(&format!("installed {}", origin.describe()));
                return Ok(toolchain);
            }
            Ok(_) => failures.push(format!("{}: no bpf-linker can be had for it", origin.describe())),
            Err(error) => failures.push(format!("{}: {error:#}", origin.describe())),
        }
    }
    bail!(
        "no Rust toolchain can build the kernel programs here. Do one of these, then run this again:\n  \
         rustup toolchain install nightly --profile minimal --component rust-src\n  \
         apt-get install --no-install-recommends {}   (Debian 12 or later, as root)\n\
         What was tried:\n  {}",
        DEBIAN_PACKAGES.join(" "),
        failures.join("\n  ")
    )
}

impl Origin {
    fn describe(self) -> &'static str {
        match self {
            Self::Rustup => "rustup's nightly with rust-src",
            Self::Debian => "Debian's rustc-web",
        }
    }
}

fn install_debian(step: &Step) -> Result<()> {
    if !apt::is_here() {
        bail!("this system has no apt");
    }
    apt::update(step)?;
    if !DEBIAN_PACKAGES.iter().all(|package| apt::offers(package)) {
        bail!("apt does not offer {}", DEBIAN_PACKAGES.join(" "));
    }
    apt::install(step, &DEBIAN_PACKAGES.map(String::from))
}

fn install_rustup(step: &Step) -> Result<()> {
    if programs::find("rustup").is_none() {
        bail!("there is no rustup");
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    step.run(&mut rustup)
}

fn rustup_llvm() -> Option<u32> {
    programs::find("rustup")?;
    let rustc = |argument: &str| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "rustc", argument]);
        clear_environment(&mut command);
        command::run(&mut command).ok()
    };
    let sysroot = rustc("--print=sysroot")?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    core.is_dir().then(|| rustc("-vV")).flatten().as_deref().and_then(llvm_major)
}

fn debian_llvm() -> Option<u32> {
    let core = PathBuf::from("/usr/lib/rustlib/bpfel-unknown-none/lib");
    if !core.is_dir() || !Path::new("/usr/bin/cargo").exists() {
        return None;
    }
    let mut command = Command::new("/usr/bin/rustc");
    command.arg("-vV");
    clear_environment(&mut command);
    llvm_major(&command::run(&mut command).ok()?)
}

/// The major version of the LLVM in what `rustc -vV` says.
pub(crate) fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn llvm_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
