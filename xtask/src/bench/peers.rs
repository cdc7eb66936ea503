//! The proxies side by side: the same certificate, upstream and processor, each set up as its own manual advises for speed.

mod caddy;
mod haproxy;
mod nginx;
mod rprox;
mod sozu;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rprox_tests::netns::Netns;
use rprox_tests::process::Process;
use rustix::process::Signal;

use super::cost;
use super::ends::{HOST, PASSTHROUGH_HOST};

/// The processor that the proxy under test has to itself.
pub(super) const PROCESSOR: &str = "0";

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Nginx,
    Haproxy,
    Caddy,
    Sozu,
    Rprox,
}

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Http,
    /// TLS that the proxy ends.
    Https,
    /// TLS that it passes on by the name in it.
    Passthrough,
}

impl Door {
    pub(super) fn scheme(self) -> &'static str {
        if self == Self::Http { "http" } else { "https" }
    }

    /// The host that is asked for there.
    pub(super) fn host(self) -> &'static str {
        if self == Self::Passthrough { PASSTHROUGH_HOST } else { HOST }
    }
}

/// What every proxy is set up with.
pub(super) struct Setting<'a> {
    pub(super) netns: &'a Netns,
    pub(super) folder: PathBuf,
    pub(super) upstream: u16,
    /// The port of the upstream that ends TLS by itself.
    pub(super) passthrough: Option<u16>,
    /// `HOST` and this many others, all to the same upstream.
    pub(super) other_hosts: usize,
    /// Workers of rprox; the others have one.
    pub(super) workers: usize,
    /// Where it runs, as taskset takes it.
    pub(super) processors: &'static str,
    /// Files with the certificate, its key, and both.
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) both: PathBuf,
}

impl Setting<'_> {
    /// The hosts that are routed.
    fn hosts(&self) -> impl Iterator<Item = String> {
        std::iter::once(HOST.to_owned())
            .chain((0..self.other_hosts).map(|number| format!("r{number}.{HOST}")))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A command that runs `program` on the proxy's processors.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.netns.command("taskset");
        command.args(["--cpu-list", self.processors]).arg(program);
        command
    }
}

impl Peer {
    pub(super) const ALL: [Self; 5] = [Self::Nginx, Self::Haproxy, Self::Caddy, Self::Sozu, Self::Rprox];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Sozu => "sozu",
            Self::Rprox => "rprox",
        }
    }

    /// Where it accepts connections.
    pub(super) fn at(self, door: Door) -> SocketAddr {
        let port = match (self, door) {
            (_, Door::Http) => 8000,
            // rprox tells the two apart on one listener.
            (_, Door::Https) | (Self::Rprox, Door::Passthrough) => 8001,
            (_, Door::Passthrough) => 8002,
        };
        (Ipv4Addr::LOCALHOST, port + self as u16 * 10).into()
    }

    /// Why it can't pass TLS on, if so.
    pub(super) fn cannot_pass(self) -> Option<&'static str> {
        match self {
            Self::Caddy => Some("it needs a plug-in for that"),
            Self::Nginx | Self::Haproxy | Self::Sozu | Self::Rprox => None,
        }
    }

    /// Why it can't hold ten thousand idle connections here, if so.
    pub(super) fn cannot_hold(self) -> Option<&'static str> {
        match self {
            Self::Sozu => {
                Some("it keeps an upstream connection for each, and a process may have 20,000 descriptors")
            }
            Self::Nginx | Self::Haproxy | Self::Caddy | Self::Rprox => None,
        }
    }

    /// Starts it, and waits until it accepts.
    ///
    /// # Errors
    ///
    /// It is missing, or does not start.
    pub(super) fn start(self, setting: &Setting<'_>) -> Result<Running> {
        let command = match self {
            Self::Nginx => nginx::command(setting)?,
            Self::Haproxy => haproxy::command(setting)?,
            Self::Caddy => caddy::command(setting)?,
            Self::Sozu => sozu::command(setting)?,
            Self::Rprox => rprox::command(setting)?,
        };
        let mut process = Process::start(self.name(), command)?;
        let passthrough = setting.passthrough.map(|_| Door::Passthrough);
        for door in [Door::Http, Door::Https].into_iter().chain(passthrough) {
            let address = self.at(door);
            process.wait_until(&format!("{address} to answer"), |_| setting.netns.can_connect(address))?;
        }
        Ok(Running { peer: self, process })
    }
}

/// A proxy that runs.
pub(super) struct Running {
    pub(super) peer: Peer,
    process: Process,
}

impl Running {
    /// Processor time that it uses while `work` is done.
    ///
    /// # Errors
    ///
    /// It has ended, or those of `work`.
    pub(super) fn time_for(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let before = cost::processor_time(self.process.pid())?;
        work()?;
        Ok(cost::processor_time(self.process.pid())?.saturating_sub(before))
    }

    /// Memory that it has, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        cost::memory(self.process.pid())
    }

    /// Has it load its configuration anew, and waits for the line with `done`.
    ///
    /// # Errors
    ///
    /// It has ended, or does not say so.
    pub(super) fn reload(&mut self, done: &str) -> Result<()> {
        let count = |process: &Process| process.said().iter().filter(|line| line.contains(done)).count();
        let before = count(&self.process);
        self.process.signal(Signal::HUP)?;
        self.process.wait_until("a reload", |process| count(process) > before)
    }
}
