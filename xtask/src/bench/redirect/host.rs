//! The host of the benchmark: the playground, with all of it on one processor and what is on the host in a control group.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::command;
use rprox_tests::playground::Playground;
use rprox_tests::topology::{HOST, INTERFACE, Topology};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::load::LOAD_PROCESSOR;

/// How many addresses each side has beside its own, each of which speaks to one of the other's: one for each way, then the open flows'.
const ADDRESSES: u8 = 12;
/// More connections than any run leaves in `TIME_WAIT` within the minute that they stay there.
const TIME_WAIT: &str = "1048576";

/// The playground, set up to be measured. Fields are dropped in order: the group is empty once the playground has gone.
pub(super) struct Host {
    pub(super) playground: Playground,
    group: Group,
    _processor: Processor,
}

impl Host {
    pub(super) fn new() -> Result<Self> {
        let processor = Processor::keep_to(LOAD_PROCESSOR.parse()?)?;
        let playground = Playground::new()?;
        let topology = &playground.topology;
        topology.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        topology.host.sysctl("net/ipv4/tcp_max_tw_buckets", TIME_WAIT)?;
        // Where it is the client that closes, its ports are free again at once.
        topology.client.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        for netns in [&topology.client, &topology.host] {
            // Every kernel has it. BBR, which some systems take, guesses at the rate of a link that has none, and no two guesses are alike.
            netns.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        }
        for number in 1..=ADDRESSES {
            pair(topology, number)?;
        }
        // The first time the loader mounts the bpffs, which is to be seen by more than one loader.
        command::run(playground.loader("attach").args(["--interface", INTERFACE, "--mode", "rewrite"]))?;
        playground.detach()?;
        Ok(Self { playground, group: Group::new()?, _processor: processor })
    }

    /// An address of the host's that the client speaks to from one that it has for nothing else; of `number` there are [`ADDRESSES`], from
    /// 1.
    pub(super) fn address(number: u8) -> Ipv4Addr {
        beside(100 + number)
    }

    /// Does `work` in the host's control group, where the processes and sockets stay that it makes.
    pub(super) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.group.inside(work)
    }

    /// Attaches with these flags.
    ///
    /// Programs on the root control group see the client's sockets too, since client and host are one kernel here. Two machines are not: so
    /// the loader takes the host's group for the root.
    pub(super) fn attach(&self, mode: &str, flags: &[&str]) -> Result<()> {
        let mut loader = self.playground.loader("attach");
        loader.args(["--interface", INTERFACE, "--mode", mode]).args(flags);
        self.inside(|| command::run(&mut self.group.as_root(&loader)).map(drop))
    }

    /// Runs a program in the host's network namespace.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        command::run(self.playground.topology.host.command(program).args(arguments))
    }
}

/// Gives both sides the address of this number.
fn pair(topology: &Topology, number: u8) -> Result<()> {
    let (at_host, at_client) = (Host::address(number), beside(200 + number));
    topology.host.ip(&format!("address add {at_host}/24 dev {INTERFACE}"))?;
    topology.client.ip(&format!("address add {at_client}/24 dev {INTERFACE}"))?;
    topology.client.ip(&format!("route add {at_host}/32 dev {INTERFACE} src {at_client}"))?;
    Ok(())
}

/// An address of the network between client and host.
fn beside(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = HOST.v4.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// Keeps this thread, and all that it starts, to one processor.
struct Processor(CpuSet);

impl Processor {
    fn keep_to(number: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set(number);
        sched_setaffinity(None, &one).with_context(|| format!("keep to processor {number}"))?;
        Ok(Self(before))
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // It was ours before.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// What the groups' names begin with, before the process that made them.
const GROUP: &str = "rprox-bench-";

/// A control group, deleted with this guard.
struct Group {
    /// Where the cgroup2 file system is mounted.
    root: PathBuf,
    /// The group that we are in.
    ours: PathBuf,
    path: PathBuf,
}

impl Group {
    fn new() -> Result<Self> {
        let root = mount_point().context("no cgroup2 file system is mounted")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let ours = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        remove_stale(&root);
        let path = root.join(format!("{GROUP}{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self { ours: root.join(ours), path, root })
    }

    fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        move_to(&self.path)?;
        let result = work();
        move_to(&self.ours)?;
        result
    }

    /// `command` in a control-group namespace whose root the group is that it starts in.
    fn as_root(&self, command: &Command) -> Command {
        // The same file system can't be mounted over itself.
        const MOUNT: &str = "umount --lazy \"$0\" && mount -t cgroup2 none \"$0\" && exec \"$@\"";

        let mut wrapped = Command::new("unshare");
        wrapped
            .args(["--cgroup", "--mount", "--", "sh", "-c", MOUNT])
            .arg(&self.root)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(name, value);
            }
        }
        wrapped
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("the control group {} stays behind: {error}", self.path.display());
        }
    }
}

/// Deletes the groups of runs that were killed.
fn remove_stale(root: &Path) {
    let Ok(groups) = fs::read_dir(root) else { return };
    for group in groups.flatten() {
        let name = group.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(GROUP)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Its processes may not have ended yet.
            let _ = fs::remove_dir(group.path());
        }
    }
}

/// Moves this process.
fn move_to(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| file.display().to_string())
}

fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let place = mount.and_then(|line| line.split(' ').nth(4));
    place.map(PathBuf::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}
