//! `cargo xtask package`: what is in the packages, and that Debian's dpkg installs, upgrades and removes the loader's.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use rprox_tests::{command, programs};

/// The packages, made once of the programs that are there: the Debian package and the tarball.
static PACKAGES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let xtask = programs::target().join("debug/xtask");
    assert!(xtask.exists(), "{} is not built: run `cargo build --package xtask`", xtask.display());
    let made = command::run(Command::new(xtask).args(["package", "--prebuilt"])).unwrap();
    let made: Vec<_> = made.lines().filter(|line| line.starts_with('/')).map(PathBuf::from).collect();
    made.try_into().unwrap()
});

/// A root file system with a shell and nothing else, in which dpkg can run a package's scripts.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["bin", "usr/sbin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        let busybox =
            programs::find("busybox").expect("Debian's busybox-static, which `cargo xtask setup` installs");
        fs::copy(busybox, root.path().join("bin/busybox")).unwrap();
        for tool in ["sh", "rm", "rmdir"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(tool)).unwrap();
        }
        Self(root)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.path().display())).args(arguments);
        dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command::run(&mut dpkg).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.path().join(file).exists()
    }
}

#[test]
fn the_debian_package_has_what_a_service_needs_and_comes_and_goes() {
    let [package, _] = &*PACKAGES;
    let control = command::run(Command::new("dpkg-deb").arg("--field").arg(package)).unwrap();
    for line in ["Package: rprox-loader", &format!("Version: {}", env!("CARGO_PKG_VERSION")), "Section: net"]
    {
        assert!(control.lines().any(|found| found == line), "{line}: {control}");
    }
    assert!(!control.contains("Depends:"), "a static program needs nothing: {control}");
    let contents = command::run(Command::new("dpkg-deb").arg("--contents").arg(package)).unwrap();
    let line = |file: &str| {
        contents.lines().find(|line| line.ends_with(file)).unwrap_or_else(|| panic!("{file}: {contents}"))
    };
    assert!(line(" ./usr/sbin/rprox-loader").starts_with("-rwxr-xr-x root/root"), "{contents}");
    for file in [
        "./usr/lib/systemd/system/rprox-loader.service",
        "./usr/share/man/man1/rprox-loader.1.gz",
        "./usr/share/bash-completion/completions/rprox-loader",
        "./usr/share/zsh/vendor-completions/_rprox-loader",
        "./usr/share/fish/vendor_completions.d/rprox-loader.fish",
        "./usr/share/doc/rprox-loader/copyright",
        "./usr/share/doc/rprox-loader/changelog.gz",
        "./usr/share/doc/rprox-loader/CHANGELOG.md.gz",
    ] {
        assert!(line(file).starts_with("-rw-r--r-- root/root"), "{contents}");
    }

    let root = Root::new();
    let package = package.to_str().unwrap();
    root.dpkg(&["--install", package]);
    let program = root.path().join("usr/sbin/rprox-loader");
    let version = command::run(Command::new(program).arg("--version")).unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system/rprox-loader.service")).unwrap();
    assert!(
        unit.contains("\nExecStart=/usr/sbin/rprox-loader run --config /etc/rprox/loader.toml\n"),
        "{unit}"
    );

    // What the administrator wrote stays, in an upgrade and when the package is removed.
    let configuration = root.path().join("etc/rprox/loader.toml");
    fs::write(&configuration, "owner = \"web\"\n").unwrap();
    root.dpkg(&["--force-confold", "--install", package]);
    root.dpkg(&["--remove", "rprox-loader"]);
    assert!(!root.has("usr/sbin/rprox-loader"));
    assert_eq!(fs::read_to_string(&configuration).unwrap(), "owner = \"web\"\n");
    root.dpkg(&["--purge", "rprox-loader"]);
    assert!(!root.has("etc/rprox"), "{}", command::run(Command::new("find").arg(root.path())).unwrap());
}

#[test]
fn debian_s_own_judge_finds_nothing_wrong_with_the_package() {
    let [package, _] = &*PACKAGES;
    assert!(programs::find("lintian").is_some(), "no lintian: run `cargo xtask setup`");
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
    let judged = command::finish(&mut lintian).unwrap();
    assert_eq!((judged.code, judged.stdout.as_str()), (Some(0), ""), "{}", judged.stderr);
}

#[test]
fn the_tarball_has_both_programs_linked_statically() {
    let [_, tarball] = &*PACKAGES;
    let folder = tempfile::tempdir().unwrap();
    command::run(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(folder.path())).unwrap();
    let inside = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    for program in ["rprox-loader", "rprox-agent"] {
        let path = inside.join("bin").join(program);
        command::run(Command::new(&path).arg("--version")).unwrap();
        let headers = command::run(Command::new("readelf").arg("--program-headers").arg(&path)).unwrap();
        assert!(!headers.contains("INTERP"), "{program} needs a dynamic loader: {headers}");
    }
    for file in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "share/man/man1/rprox-agent.1.gz",
        "deploy/systemd/rprox-loader.service",
    ] {
        assert!(inside.join(file).exists(), "{file}");
    }
}
