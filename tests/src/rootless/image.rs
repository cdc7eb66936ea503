//! Images without a registry: a program of this machine with the libraries that it needs, and the agent by its Containerfile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Host;
use crate::command;
use crate::programs::{self, Programs};

/// What the Containerfile builds.
pub const TARGETS: [&str; 2] = ["agent", "loader"];

/// The certificate authorities that this machine trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What an image is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents<'a> {
    /// Arguments that the program has where none are given.
    pub arguments: &'a [&'a str],
    /// Files with their contents.
    pub files: &'a [(&'a str, &'a str)],
}

/// Gives the user an image called `image` with `program`, which is what runs.
///
/// # Errors
///
/// A library is missing, or Podman refused.
pub fn of_program(host: &Host, image: &str, program: &Path, contents: Contents<'_>) -> Result<()> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let root = host.folder().path().join(format!("image-{name}"));
    let inside = format!("/bin/{name}");
    copy(program, &below(&root, Path::new(&inside)))?;
    for library in libraries(program)? {
        copy(&library, &below(&root, &library))?;
    }
    // What Debian's programs expect to be there.
    for folder in ["etc", "tmp", "run", "var/lib", "var/log"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let users = [
        ("/etc/passwd", "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"),
        ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ];
    for (file, content) in users.iter().chain(contents.files) {
        let place = below(&root, Path::new(file));
        fs::create_dir_all(place.parent().unwrap_or(&root))?;
        fs::write(&place, content).with_context(|| format!("write {}", place.display()))?;
    }
    let arguments = serde_json::to_string(contents.arguments)?;
    import(host, &root, image, &[format!("ENTRYPOINT [\"{inside}\"]"), format!("CMD {arguments}")])
}

/// Gives the user an image called `image` that needs this machine's /usr as a volume, and then has all its programs.
///
/// # Errors
///
/// Podman refused.
pub fn of_nothing(host: &Host, image: &str) -> Result<()> {
    let root = host.folder().path().join("image-nothing");
    for folder in ["usr", "srv", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["bin", "lib", "lib64"] {
        let link = root.join(folder);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(Path::new("usr").join(folder), link)?;
        }
    }
    import(host, &root, image, &[])
}

/// Gives the user an image called `image` with Docker's registry, which listens on port 5000.
///
/// # Errors
///
/// It is not installed, or as for [`of_program`].
pub fn of_registry(host: &Host, image: &str) -> Result<()> {
    const CONFIGURATION: &str = "\
version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: /var/lib/registry } }
http: { addr: ':5000' }
";
    let registry = programs::registry().context("no docker-registry: run `cargo xtask setup`")?;
    let contents =
        Contents { arguments: &["serve", "/etc/config.yml"], files: &[("/etc/config.yml", CONFIGURATION)] };
    of_program(host, image, &registry, contents)
}

/// Builds the agent's image in the user's storage, as `cargo xtask image` does.
///
/// # Errors
///
/// The programs are not built, or Podman refused.
pub fn of_agent(host: &Host) -> Result<()> {
    of_agent_by(host, host.user("podman"))
}

/// Builds it in root's storage on that host.
///
/// # Errors
///
/// As for [`of_agent`].
pub fn of_agent_for_root(host: &Host) -> Result<()> {
    of_agent_by(host, host.root("podman"))
}

fn of_agent_by(host: &Host, mut podman: Command) -> Result<()> {
    let context = host.folder().path().join("context");
    fs::create_dir(&context)?;
    fill(&context, &Programs::find()?)?;
    let file = context.join("Containerfile");
    fs::copy(containerfile(), &file)?;
    command::run(build(&mut podman, "agent", &file, &context)).map(drop)
}

/// Fills `folder` with what the Containerfile takes: both programs without what only a debugger reads, and this machine's
/// certificate authorities.
///
/// # Errors
///
/// Something is missing, or can't be stripped.
pub fn fill(folder: &Path, programs: &Programs) -> Result<()> {
    for program in [&programs.loader, &programs.agent] {
        let name = program.file_name().context("a program has a name")?;
        command::run(Command::new("strip").arg("-o").arg(folder.join(name)).arg(program))?;
    }
    fs::copy(AUTHORITIES, folder.join("ca-certificates.crt"))
        .with_context(|| format!("copy {AUTHORITIES}; Debian's package ca-certificates has it"))?;
    Ok(())
}

/// Adds to `podman` what builds the image of `target` from the folder `context` by `containerfile`.
pub fn build<'a>(
    podman: &'a mut Command,
    target: &str,
    containerfile: &Path,
    context: &Path,
) -> &'a mut Command {
    let (name, version) = (name(target), env!("CARGO_PKG_VERSION"));
    podman
        .args([
            "build",
            "--quiet",
            "--pull=never",
            "--target",
            target,
            "--build-arg",
            &format!("VERSION={version}"),
        ])
        .args(["--tag", &format!("{name}:{version}"), "--tag", &format!("{name}:latest"), "--file"])
        .arg(containerfile)
        .arg(context)
}

/// The image's name.
#[must_use]
pub fn name(target: &str) -> String {
    format!("localhost/rprox-{target}")
}

/// Where the agent's Containerfile is.
#[must_use]
pub fn containerfile() -> PathBuf {
    programs::workspace().join("deploy/Containerfile")
}

/// Makes of the folder `root`, which is then gone, the user's image called `image`.
fn import(host: &Host, root: &Path, image: &str, changes: &[String]) -> Result<()> {
    let archive = root.with_extension("tar");
    command::run(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."))?;
    let mut podman = host.user("podman");
    podman.args(["import", "--quiet"]).args(changes.iter().flat_map(|change| ["--change", change]));
    command::run(podman.arg(&archive).arg(image))?;
    fs::remove_dir_all(root)?;
    Ok(fs::remove_file(&archive)?)
}

/// The libraries that `program` is linked with, and what loads them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let listed = command::finish(Command::new("ldd").arg(program))?.stdout;
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(|word| PathBuf::from(word.trim_end_matches(':'))).collect())
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
