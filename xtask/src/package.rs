//! `cargo xtask package`: the loader as a Debian package, and both programs as a tarball for any Linux.

mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::command;
use rprox_tests::programs::{self, Programs};

use self::tree::Tree;
use crate::build;
use crate::steps::Step;

/// Where the unit has the loader, and where the package does.
const UNIT_PATHS: [&str; 2] = ["/usr/local/bin/rprox-loader", "/usr/sbin/rprox-loader"];

/// Each shell with the file of a command's completions below /usr/share.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/{}"),
    ("zsh", "zsh/vendor-completions/_{}"),
    ("fish", "fish/vendor_completions.d/{}.fish"),
];

/// The flags of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Take the programs as they are in target/release
    #[arg(long)]
    prebuilt: bool,
}

/// Makes both, in `target/package`.
pub(crate) fn package(arguments: &Arguments) -> Result<()> {
    if !arguments.prebuilt {
        build::build(build::Profile::Release)?;
    }
    let folder = programs::target().join("package");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let programs = Programs::find()?;
    let package = debian_package(&folder, &programs.loader)?;
    let tarball = tarball(&folder, &programs)?;
    println!("{}\n{}", package.display(), tarball.display());
    Ok(())
}

fn debian_package(folder: &Path, loader: &Path) -> Result<PathBuf> {
    let step = Step::begin("Package the loader for Debian");
    if programs::find("dpkg-deb").is_none() {
        bail!("there is no dpkg-deb, which makes the package: install what Debian calls dpkg");
    }
    let name = "rprox-loader";
    let tree = Tree::new(&folder.join("debian"))?;
    tree.add_program(loader, "usr/sbin/rprox-loader")?;
    let unit = fs::read_to_string(deploy("systemd/rprox-loader.service"))?;
    tree.write("usr/lib/systemd/system/rprox-loader.service", &in_package(&unit))?;
    tree.add(&deploy("systemd/loader.toml"), "etc/rprox/loader.toml")?;
    add_documents(&tree, loader, name, "usr/share")?;
    tree.add(&deploy("debian/copyright"), "usr/share/doc/rprox-loader/copyright")?;
    add_changelogs(&tree, "usr/share/doc/rprox-loader")?;
    tree.add(&deploy("debian/lintian-overrides"), "usr/share/lintian/overrides/rprox-loader")?;
    let architecture = command::run(Command::new("dpkg").arg("--print-architecture"))?;
    let control = fs::read_to_string(deploy("debian/control"))?
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@ARCHITECTURE@", architecture.trim())
        .replace("@SIZE@", &tree.size()?.div_ceil(1024).to_string());
    tree.write("DEBIAN/control", &control)?;
    tree.add(&deploy("debian/conffiles"), "DEBIAN/conffiles")?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.add_script(&deploy("debian").join(script), &format!("DEBIAN/{script}"))?;
    }
    let package = folder.join(format!("{name}_{}_{}.deb", env!("CARGO_PKG_VERSION"), architecture.trim()));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zxz", "--build"]).arg(tree.path()).arg(&package);
    step.run(build.env("SOURCE_DATE_EPOCH", tree::date()))?;
    step.finish(&size_of(&package)?);
    Ok(package)
}

fn tarball(folder: &Path, programs: &Programs) -> Result<PathBuf> {
    let step = Step::begin("Pack both programs");
    let name = format!("rprox-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let tree = Tree::new(&folder.join(&name))?;
    for program in [&programs.loader, &programs.agent] {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        tree.add_program(program, &format!("bin/{name}"))?;
        add_documents(&tree, program, &name, "share")?;
    }
    let documents =
        ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "rprox-ebpf/LICENSE-GPL-2.0"];
    for document in documents.map(Path::new) {
        let name = document.file_name().context("a document has a name")?.to_string_lossy();
        tree.add(&programs::workspace().join(document), &name)?;
    }
    for part in ["systemd", "quadlet", "kubernetes", "Containerfile"] {
        tree.add(&deploy(part), &format!("deploy/{part}"))?;
    }
    let tarball = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go=rX,u+rw",
        "--use-compress-program",
    ])
    .args(["gzip -9n", &format!("--mtime=@{}", tree::date()), "-C"])
    .arg(folder)
    .arg("-cf")
    .arg(&tarball)
    .arg(&name);
    step.run(&mut tar)?;
    step.finish(&size_of(&tarball)?);
    Ok(tarball)
}

/// The man page and the completions, as the program itself writes them.
fn add_documents(tree: &Tree, program: &Path, name: &str, share: &str) -> Result<()> {
    let page = format!("{share}/man/man1/{name}.1");
    tree.write(&page, &command::run(Command::new(program).arg("man"))?)?;
    tree.compress(&page)?;
    for (shell, file) in COMPLETIONS {
        let written = command::run(Command::new(program).args(["completions", shell]))?;
        tree.write(&format!("{share}/{}", file.replace("{}", name)), &written)?;
    }
    Ok(())
}

/// Debian's own changelog, and the one that it refers to.
fn add_changelogs(tree: &Tree, folder: &str) -> Result<()> {
    let date = command::run(Command::new("date").args(["-uR", "-d"]).arg(format!("@{}", tree::date())))?;
    let changelog = fs::read_to_string(deploy("debian/changelog"))?
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@DATE@", date.trim());
    tree.write(&format!("{folder}/changelog"), &changelog)?;
    tree.add(&programs::workspace().join("CHANGELOG.md"), &format!("{folder}/CHANGELOG.md"))?;
    tree.compress(&format!("{folder}/changelog"))?;
    tree.compress(&format!("{folder}/CHANGELOG.md"))
}

/// The unit for a package: with the program where packages have theirs, and without how to install it by hand.
fn in_package(unit: &str) -> String {
    let by_hand = |line: &&str| line.starts_with("#   ") || *line == "#";
    let lines = unit
        .lines()
        .filter(|line| !by_hand(line))
        .map(|line| line.replace(UNIT_PATHS[0], UNIT_PATHS[1]) + "\n");
    lines.collect()
}

fn deploy(file: &str) -> PathBuf {
    programs::workspace().join("deploy").join(file)
}

fn size_of(file: &Path) -> Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name}, {} KiB", fs::metadata(file)?.len() / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_its_program_elsewhere() {
        let unit = "# The redirect.\n#\n#   install it\n\nExecStart=/usr/local/bin/rprox-loader run\n";
        assert_eq!(in_package(unit), "# The redirect.\n\nExecStart=/usr/sbin/rprox-loader run\n");
    }
}
