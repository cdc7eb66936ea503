//! Where the programs under test and their companions are.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The two programs as `cargo xtask build` makes them.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `rprox-loader`.
    pub loader: PathBuf,
    /// `rprox-agent`.
    pub agent: PathBuf,
}

impl Programs {
    /// The release build's programs.
    ///
    /// # Errors
    ///
    /// They are not built.
    pub fn find() -> Result<Self> {
        let folder = target().join("release");
        let programs = Self { loader: folder.join("rprox-loader"), agent: folder.join("rprox-agent") };
        for program in [&programs.loader, &programs.agent] {
            if !program.exists() {
                bail!("{} is not built: run `cargo xtask build`", program.display());
            }
        }
        Ok(programs)
    }
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target directory.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where `cargo xtask setup` puts tools that it does not install into the system.
#[must_use]
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// nginx: the system's, or the one that `cargo xtask setup` unpacked.
#[must_use]
pub fn nginx() -> Option<PathBuf> {
    unpacked("nginx", "nginx")
}

/// The program `name`: the system's, or the one in the Debian package that was unpacked beside the other tools.
#[must_use]
pub fn unpacked(package: &str, name: &str) -> Option<PathBuf> {
    let folder = tools().join(package);
    let places = ["usr/sbin", "usr/bin"].map(|place| folder.join(place).join(name));
    find(name).or_else(|| places.into_iter().find(|path| path.exists()))
}

/// Docker's registry: the system's, or the one that `cargo xtask setup` unpacked.
#[must_use]
pub fn registry() -> Option<PathBuf> {
    unpacked("docker-registry", "docker-registry")
}

/// What checks Kubernetes manifests by the schemas, once `cargo xtask setup` has installed it.
#[must_use]
pub fn kubernetes_validate() -> PathBuf {
    tools().join("kubernetes/bin/kubernetes-validate")
}

/// aardvark-dns: Podman's helper, which distributions keep off the search path.
#[must_use]
pub fn aardvark() -> Option<PathBuf> {
    let folders = ["/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman"];
    let kept = folders.iter().map(|folder| Path::new(folder).join("aardvark-dns")).find(|path| path.exists());
    kept.or_else(|| find("aardvark-dns"))
}

/// The program `name` on the search path, or where administrators' programs are.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
