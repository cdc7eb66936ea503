//! A host with rootless Podman: mount, process and network namespaces of its own, in which an ordinary user, known there alone, has
//! systemd's user manager and Podman. No image registry is needed, and nothing of it is left.
//!
//! ```text
//!  client ───── eth0  host
//!                      │   sockets that the user's systemd passes on
//!                   rprox-agent ── pod ── pod      a network of the user's Podman
//! ```

pub mod acme;
pub mod image;
pub mod internet;
pub mod site;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Request;
use crate::netns::{self, Netns, unique_name};
use crate::process::Process;
use crate::programs::{self, Programs};
use crate::run_dir::{self, RunDir};
use crate::topology::{CLIENT, HOST, INTERFACE, link};
use crate::{command, wait};

/// The user's name, on that host alone.
pub const USER: &str = "web";
/// Its id, and its group's.
pub const ID: u32 = 64_082;
/// The first of its subordinate ids, which nobody else on a machine has.
const FIRST_SUBORDINATE: u32 = 2_000_000_000;

/// How Podman is to do on a host that only seems to be booted by systemd.
const CONTAINERS_CONF: &str = "\
[containers]
log_driver = \"k8s-file\"
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// The one driver that works on every file system: images here are small.
const STORAGE_CONF: &str = "[storage]\ndriver = \"vfs\"\n";

/// The host and its client; gone with this guard. Fields are dropped in order.
#[derive(Debug)]
pub struct Host {
    /// The user's systemd.
    manager: Option<Process>,
    init: Process,
    /// The first process of the host's process namespace, by its id outside of it.
    first: Pid,
    /// Where requests come from.
    pub client: Netns,
    /// The host's network.
    pub netns: Netns,
    cgroup: String,
    folder: RunDir,
}

impl Host {
    /// Boots it: the user's systemd runs, both programs are in /usr/local/bin, and no container exists yet.
    ///
    /// # Errors
    ///
    /// Not root, or something that Podman needs is missing: `cargo xtask setup` installs it.
    pub fn boot() -> Result<Self> {
        for program in ["podman", "catatonit", "slirp4netns", "newuidmap", "systemctl"] {
            if programs::find(program).is_none() {
                bail!("no {program}, which rootless Podman needs: run `cargo xtask setup`");
            }
        }
        netns::sweep();
        run_dir::sweep();
        let folder = RunDir::new()?;
        let (client, netns) = (Netns::new("client")?, Netns::new("host")?);
        link(&client, CLIENT, &netns, INTERFACE, HOST)?;
        netns.ip(&format!("route add default via {}", CLIENT.v4))?;
        netns.ip(&format!("route add default via {}", CLIENT.v6))?;
        let cgroup = unique_name("host");
        let (init, first) = start(&netns, folder.path(), &cgroup)?;
        let mut host = Self { manager: None, init, first, client, netns, cgroup, folder };
        host.install(&Programs::find()?)?;
        host.configure_podman()?;
        host.start_manager()?;
        Ok(host)
    }

    /// A command that runs `program` on the host as root.
    #[must_use]
    pub fn root(&self, program: impl AsRef<Path>) -> Command {
        self.enter(&self.netns, program)
    }

    /// A command that runs `program` on the host as the user, in its home and as if logged in.
    #[must_use]
    pub fn user(&self, program: impl AsRef<Path>) -> Command {
        // Below the manager's own cgroup: from there it may take processes into its scopes, as it does with aardvark-dns.
        self.user_in("user/session", program)
    }

    /// A command that runs `program` at the client, as root, with the host's files.
    #[must_use]
    pub fn at_client(&self, program: impl AsRef<Path>) -> Command {
        self.enter(&self.client, program)
    }

    /// Runs the user's `podman` with these space-separated arguments, and returns what it says.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn podman(&self, arguments: &str) -> Result<String> {
        command::run(self.user("podman").args(arguments.split_whitespace()))
    }

    /// Runs the user's `systemctl --user` with these space-separated arguments, and returns what it says.
    ///
    /// # Errors
    ///
    /// It failed: with the log of the containers.
    pub fn systemctl(&self, arguments: &str) -> Result<String> {
        command::run(self.user("systemctl").arg("--user").args(arguments.split_whitespace())).with_context(
            || self.manager.as_ref().map(|manager| manager.said().join("\n")).unwrap_or_default(),
        )
    }

    /// Writes a file of the user's, below its home.
    ///
    /// # Errors
    ///
    /// It could not be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.home().join(name);
        let parent = path.parent().unwrap_or(&path);
        let mut make = self.user("mkdir");
        command::run(
            make.arg("-p").arg(Path::new("/home").join(USER).join(name).parent().unwrap_or(parent)),
        )?;
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        std::os::unix::fs::chown(&path, Some(ID), Some(ID))?;
        Ok(())
    }

    /// Strikes the user out of the host's files, so that `useradd` gives it the same ids anew. Until then no command can be the user's.
    ///
    /// # Errors
    ///
    /// There are no such files.
    pub fn forget_user(&self) -> Result<()> {
        let script = format!(
            "sed -i '/^{USER}:/d' /etc/passwd /etc/group /etc/subuid /etc/subgid
             for limits in 'UID {ID} 1' 'GID {ID} 1' 'SUB_UID {FIRST_SUBORDINATE} 65536' 'SUB_GID {FIRST_SUBORDINATE} 65536'; do
                 set -- $limits
                 sed -i \"/^$1_M[IA][NX]/d\" /etc/login.defs
                 printf '%s_MIN %s\\n%s_MAX %s\\n' $1 $2 $1 $(($2 + $3 - 1)) >> /etc/login.defs
             done"
        );
        command::run(self.root("sh").args(["-euc", &script])).map(drop)
    }

    /// The user's home, as it is found outside of the host.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home").join(USER)
    }

    /// The run's folder, which the user can read.
    #[must_use]
    pub fn folder(&self) -> &RunDir {
        &self.folder
    }

    /// A request of the client's for `url`, whose host is this host.
    #[must_use]
    pub fn get(&self, url: &str) -> Request {
        let name = url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
        Request::get(&self.client, url).resolve(name, HOST.v4.into())
    }

    fn user_in(&self, cgroup: &str, program: impl AsRef<Path>) -> Command {
        let mut command = self.root("sh");
        command
            .args(["-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
            .arg(format!("/sys/fs/cgroup/{}/{cgroup}", self.cgroup))
            .args([
                "setpriv",
                &format!("--reuid={ID}"),
                &format!("--regid={ID}"),
                "--init-groups",
                "--reset-env",
                "--",
            ])
            .args(["env", "--chdir", &format!("/home/{USER}"), &format!("XDG_RUNTIME_DIR=/run/user/{ID}")])
            .arg("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(program.as_ref());
        command
    }

    fn enter(&self, network: &Netns, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first.as_raw_nonzero()))
            .args(["--mount", "--pid", &format!("--net={}", network.path().display()), "--"])
            .arg(program.as_ref());
        command
    }

    fn install(&self, programs: &Programs) -> Result<()> {
        for program in [&programs.loader, &programs.agent] {
            let copy = self.folder.copy_of(program)?;
            command::run(self.root("install").args(["-m", "755"]).arg(&copy).arg("/usr/local/bin/"))?;
            fs::remove_file(copy)?;
        }
        Ok(())
    }

    fn configure_podman(&self) -> Result<()> {
        self.write(".config/containers/containers.conf", CONTAINERS_CONF)?;
        self.write(".config/containers/storage.conf", STORAGE_CONF)?;
        let storage = "runroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"";
        let root = format!(
            "mkdir -p /etc/containers; echo '{STORAGE_CONF}{storage}' > /etc/containers/storage.conf"
        );
        command::run(self.root("sh").args(["-c", &root])).map(drop)
    }

    fn start_manager(&mut self) -> Result<()> {
        let mut command = self.user_in("user", "/lib/systemd/systemd");
        command.args(["--user", "--log-target=console"]);
        let mut manager = Process::start("systemd --user", command)?;
        let running = |host: &Self| host.systemctl("is-active default.target").is_ok();
        manager.wait_until("the user's systemd to be there", |_| running(self))?;
        self.manager = Some(manager);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With its first process the kernel ends all others of the namespace, before that one counts as ended.
        if kill_process(self.first, Signal::KILL).is_err() || self.init.wait(wait::READY).is_err() {
            eprintln!("the host with Podman does not end");
        }
        let script = "mount -t cgroup2 none \"$1\" && find \"$1/$2\" -depth -type d -exec rmdir {} \\;";
        let mut remove = Command::new("unshare");
        remove.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(self.folder.path()).arg(&self.cgroup);
        if let Err(error) = command::run(&mut remove) {
            eprintln!("the cgroup {} stays behind: {error:#}", self.cgroup);
        }
    }
}

fn start(netns: &Netns, folder: &Path, cgroup: &str) -> Result<(Process, Pid)> {
    let mut command = netns.command("unshare");
    command
        .args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--"])
        .args(["bash", "-c", include_str!("rootless/host.sh"), "host"])
        .arg(folder)
        .args([USER, &ID.to_string(), &FIRST_SUBORDINATE.to_string(), cgroup, &CLIENT.v4.to_string()]);
    let mut init = Process::start("the host with Podman", command)?;
    let (pid, mut first) = (init.pid().as_raw_nonzero(), None);
    let children = format!("/proc/{pid}/task/{pid}/children");
    init.wait_until("the host with Podman to be ready", |_| {
        let children = fs::read_to_string(&children).unwrap_or_default();
        first = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let name =
            first.and_then(|pid| fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok());
        name.is_some_and(|name| name.trim() == "catatonit")
    })?;
    Ok((init, first.context("its first process ended")?))
}
