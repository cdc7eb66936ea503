//! The files that a machine boots with.

use std::cell::RefCell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};

use super::below;
use super::kernel::Kernel;

/// What stands before the result of each test program on the console, and before that of all.
pub(super) const RESULT: &str = "rprox-result:";

/// A folder that becomes an initramfs.
pub(super) struct Initramfs {
    root: PathBuf,
    modules: RefCell<Vec<PathBuf>>,
}

impl Initramfs {
    /// An empty one, but for what every machine has.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        // It is made anew each time: what it holds is copied in less time than compared.
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for folder in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/log/nginx", "var/lib/nginx"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for folder in ["bin", "lib", "lib64", "sbin"] {
            fs::create_dir_all(root.join("usr").join(folder))?;
            symlink(Path::new("usr").join(folder), root.join(folder))?;
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )?;
        fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        let image = Self { root, modules: RefCell::default() };
        image.add_file(&programs::find("busybox").context("busybox is not installed")?)?;
        Ok(image)
    }

    /// Copies a file to the path that it has here.
    pub(super) fn add_file(&self, path: &Path) -> Result<PathBuf> {
        let to = below(&self.root, path);
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(path, &to).with_context(|| format!("copy {}", path.display()))?;
        Ok(to)
    }

    /// Copies a program, without its debug information, and the libraries that it needs.
    pub(super) fn add_program(&self, path: &Path) -> Result<()> {
        let to = self.add_file(path)?;
        command::run(Command::new("strip").arg(&to))?;
        // A static one needs none, and `ldd` says so by failing.
        let said = command::run(Command::new("ldd").arg(path)).unwrap_or_default();
        for word in said.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(word);
            if !below(&self.root, library).exists() {
                self.add_file(library)?;
            }
        }
        Ok(())
    }

    /// Copies a kernel module and those that it needs.
    pub(super) fn add_module(&self, kernel: &Kernel, module: &str) -> Result<()> {
        for file in kernel.module(module)? {
            let mut modules = self.modules.borrow_mut();
            if !modules.contains(&file) {
                self.add_file(&file)?;
                modules.push(file);
            }
        }
        Ok(())
    }

    /// Writes the first program that runs: it runs `commands`, says how each ended, and turns the machine off.
    pub(super) fn add_init(&self, commands: &[String]) -> Result<()> {
        let object = programs::workspace().join("target/bpf/rprox-ebpf");
        let mut script = vec![
            "#!/bin/busybox sh".to_owned(),
            "/bin/busybox --install -s /bin 2>/dev/null".to_owned(),
            "export PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_LIB_BACKTRACE=0".to_owned(),
            format!("export RPROX_EBPF_OBJECT={}", object.display()),
            "mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev".to_owned(),
            "mount -t tmpfs run /run; mount -t tmpfs -o mode=1777 tmp /tmp; mkdir -p /run/netns".to_owned(),
            "mount -t cgroup2 cgroup /sys/fs/cgroup; ip link set lo up; all=0".to_owned(),
        ];
        script.extend(self.modules.borrow().iter().map(|module| format!("insmod {}", module.display())));
        script.extend(commands.iter().map(|command| format!("{command} || all=1")));
        script.push(format!("echo {RESULT} $all; poweroff -f\n"));
        let init = self.root.join("init");
        fs::write(&init, script.join("\n"))?;
        fs::set_permissions(&init, Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Packs it into the file `to`.
    pub(super) fn pack(&self, to: &Path) -> Result<()> {
        let mut find =
            Command::new("find").arg(".").current_dir(&self.root).stdout(Stdio::piped()).spawn()?;
        let names = find.stdout.take().context("a pipe")?;
        let mut cpio = Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(&self.root)
            .stdin(names)
            .stdout(Stdio::piped())
            .spawn()?;
        let archive = cpio.stdout.take().context("a pipe")?;
        let gzip = Command::new("gzip").arg("-1").stdin(archive).stdout(File::create(to)?).status()?;
        if !(find.wait()?.success() && cpio.wait()?.success() && gzip.success()) {
            bail!("packing {} into {} failed", self.root.display(), to.display());
        }
        Ok(())
    }
}
