//! Network namespaces that vanish with their guard, and those that a killed run could not take away.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid,
};

use crate::command;

const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "rprox-";

/// A user without a name, a group, a capability or a way to get one.
#[derive(Debug, Clone, Copy)]
pub struct Unprivileged {
    /// User and group id.
    pub id: u32,
}

/// A named network namespace, deleted with this guard.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace whose name tells its `role`, with the loopback device up.
    ///
    /// # Errors
    ///
    /// `ip netns add` failed: most often for want of root.
    pub fn new(role: &str) -> Result<Self> {
        let name = unique_name(role);
        command::run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        // Addresses are usable at once, not after the seconds that duplicate address detection takes.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name that `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `nsenter --net=` finds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs `ip` with these space-separated arguments on the namespace.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Sets a kernel parameter, its name written with slashes.
    ///
    /// # Errors
    ///
    /// The kernel does not have it, or refused the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(key);
        self.enter(|| fs::write(&file, value))?.with_context(|| format!("set {key} to {value}"))
    }

    /// A command that runs `program` inside as root. `ip netns exec` would mount a new /sys as well, and hide the cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program.as_ref());
        command
    }

    /// A command that runs `program` inside as `user`, who can never gain a privilege.
    #[must_use]
    pub fn command_as(&self, user: Unprivileged, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("setpriv");
        command
            .arg(format!("--reuid={}", user.id))
            .arg(format!("--regid={}", user.id))
            .args(["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"])
            .arg(program.as_ref());
        command
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    ///
    /// The namespace can't be entered, or `work` panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter_on_this_thread(&self.path())?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("panicked inside the namespace {}", self.name))?
        })
    }

    /// The same as `user`.
    ///
    /// # Errors
    ///
    /// As for [`Self::enter`], or not root.
    pub fn enter_as<T: Send>(&self, user: Unprivileged, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.enter(|| {
            let (user, group) = (Uid::from_raw(user.id), Gid::from_raw(user.id));
            // Of this thread alone: the C library's calls would change the whole process.
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
            Ok(work())
        })?
    }

    /// Whether a TCP connection from inside to `address` is accepted.
    #[must_use]
    pub fn can_connect(&self, address: SocketAddr) -> bool {
        self.enter(|| TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok())
            .unwrap_or(false)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("the network namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Moves the calling thread, which should end soon after, into the namespace at `path`.
///
/// # Errors
///
/// No such namespace, or not root.
pub fn enter_on_this_thread(path: &Path) -> Result<()> {
    let file = fs::File::open(path).with_context(|| format!("open the namespace {}", path.display()))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the namespace {}", path.display()))
}

/// Deletes the namespaces, and ends the processes in them, of runs that were killed before they could.
pub fn sweep() {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if is_abandoned(&name) {
            for pid in processes_in(&name) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = delete(&name);
        }
    }
}

/// A name that no other run uses, from which `is_abandoned` can tell whether its run still lives.
pub(crate) fn unique_name(role: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether `name` was made by a run that is no more.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn processes_in(name: &str) -> Vec<Pid> {
    let listed = command::run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

fn delete(name: &str) -> Result<()> {
    command::run(Command::new("ip").args(["netns", "delete", name])).map(drop)
}
