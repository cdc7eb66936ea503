//! Images without a registry: a program of this machine with the libraries that it needs, and the agent by its Containerfile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Host;
use crate::{command, programs};

/// The agent's image.
pub const AGENT: &str = "localhost/rprox-agent";

/// Gives the user an image called `name` with `program`, which becomes `/bin/NAME` and is what runs.
///
/// # Errors
///
/// A library is missing, or Podman refused.
pub fn of_program(host: &Host, name: &str, program: &Path) -> Result<()> {
    let root = host.folder().path().join(format!("image-{name}"));
    let inside = Path::new("/bin").join(name);
    copy(program, &root.join("bin").join(name))?;
    for library in libraries(program)? {
        copy(&library, &below(&root, &library))?;
    }
    // What Debian's programs expect to be there.
    for folder in ["etc", "tmp", "run", "var/lib", "var/log"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let archive = root.with_extension("tar");
    command::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    let mut import = host.user("podman");
    import.args(["import", "--quiet", "--change", &format!("ENTRYPOINT [\"{}\"]", inside.display())]);
    command::run(import.arg(&archive).arg(format!("localhost/{name}")))?;
    fs::remove_dir_all(&root)?;
    Ok(fs::remove_file(&archive)?)
}

/// Puts `agent` into `folder` without what only a debugger reads.
///
/// # Errors
///
/// It is not built, or can't be stripped.
pub fn strip(agent: &Path, folder: &Path) -> Result<()> {
    command::run(Command::new("strip").arg("-o").arg(folder.join("rprox-agent")).arg(agent)).map(drop)
}

/// Adds to `podman` what builds the agent's image from `context` by `containerfile`.
pub fn build<'a>(podman: &'a mut Command, containerfile: &Path, context: &Path) -> &'a mut Command {
    let version = env!("CARGO_PKG_VERSION");
    podman
        .args(["build", "--quiet", "--pull=never", "--build-arg", &format!("VERSION={version}")])
        .args(["--tag", &format!("{AGENT}:{version}"), "--tag", &format!("{AGENT}:latest"), "--file"])
        .arg(containerfile)
        .arg(context)
}

/// Where the agent's Containerfile is.
#[must_use]
pub fn containerfile() -> PathBuf {
    programs::workspace().join("deploy/Containerfile")
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
