//! `cargo xtask setup`: what building and testing need, installed step by step.

pub(crate) mod linker;
pub(crate) mod toolchain;

pub(crate) mod apt;

mod companions;
mod kubernetes;
mod machines;
mod podman;

use anyhow::Result;

/// What building needs.
pub(crate) struct ForBuilding {
    /// The toolchain for the kernel programs.
    pub(crate) toolchain: toolchain::Toolchain,
    /// The folder with bpf-linker.
    pub(crate) linker: std::path::PathBuf,
}

/// Installs what building needs.
pub(crate) fn for_building() -> Result<ForBuilding> {
    let toolchain = toolchain::set_up()?;
    let linker = linker::set_up(toolchain.llvm)?;
    Ok(ForBuilding { toolchain, linker })
}

/// Installs what the playground needs beside the programs.
pub(crate) fn for_playing() -> Result<()> {
    companions::set_up()
}

/// Installs what a host with rootless Podman needs, and what checks Kubernetes manifests.
pub(crate) fn for_podman() -> Result<()> {
    podman::set_up()?;
    kubernetes::set_up()
}

/// Installs what virtual machines need.
pub(crate) fn for_virtual_machines() -> Result<()> {
    machines::set_up()
}

/// Installs everything.
pub(crate) fn everything() -> Result<()> {
    for_building()?;
    for_playing()?;
    for_podman()?;
    for_virtual_machines()
}
