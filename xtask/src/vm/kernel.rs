//! Debian's kernels, unpacked from their packages and never installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::command;

use super::folder;
use crate::setup::apt;
use crate::steps::Step;

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// The folder that `lib/modules` is in.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Unpacks the newest kernel of `version` that apt offers, unless there is one already.
    pub(crate) fn set_up(version: &str) -> Result<Self> {
        let step = Step::begin(&format!("Debian's kernel {version}"));
        if std::env::consts::ARCH != "x86_64" {
            bail!("the virtual machine is for x86-64 only");
        }
        let root = folder().join(format!("linux-{version}"));
        if let Ok(kernel) = Self::find(root.clone()) {
            step.finish(&format!("{} is there", kernel.release));
            return Ok(kernel);
        }
        apt::update(&step)?;
        let package = newest(version)?;
        fs::create_dir_all(&root)?;
        let mut download = Command::new("apt-get");
        step.run(download.args(["--quiet", "download", &package]).current_dir(&root))
            .with_context(|| format!("run `apt-get download {package}`"))?;
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                step.run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&root))?;
                fs::remove_file(&path)?;
            }
        }
        let kernel = Self::find(root)?;
        step.run(Command::new("depmod").arg("--basedir").arg(&kernel.modules).arg(&kernel.release))?;
        step.finish(&kernel.release);
        Ok(kernel)
    }

    fn find(root: PathBuf) -> Result<Self> {
        for entry in fs::read_dir(root.join("boot"))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(release) = name.strip_prefix("vmlinuz-") {
                return Ok(Self { release: release.to_owned(), image: path.clone(), modules: root });
            }
        }
        bail!("no kernel below {}", root.display())
    }

    /// The files of `module` and of the modules that it needs, in the order to load them in. Empty for what is built in.
    pub(crate) fn module(&self, module: &str) -> Result<Vec<PathBuf>> {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("--dirname").arg(&self.modules).args(["--set-version", &self.release]);
        let said = command::run(modprobe.args(["--show-depends", module]))?;
        // Parameters may follow the file.
        let files = said.lines().filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next());
        Ok(files.map(PathBuf::from).collect())
    }
}

/// The newest package of a kernel `version`.
fn newest(version: &str) -> Result<String> {
    let pattern = format!("^linux-image-{}\\.0-[0-9]+-cloud-amd64$", version.replace('.', "\\."));
    let found = command::run(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let abi = |package: &&str| package.split('-').nth(3).and_then(|abi| abi.parse::<u32>().ok());
    let packages = found.lines().filter_map(|line| line.split_whitespace().next());
    let newest = packages.max_by_key(abi).with_context(|| {
        format!("apt offers no kernel {version}: this needs Debian 12's package lists (`apt-get update`)")
    })?;
    Ok(newest.to_owned())
}
