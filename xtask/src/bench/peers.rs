//! The proxies side by side: the same certificate, upstream and processor, each set up as its own manual advises for speed.

mod caddy;
mod haproxy;
mod nginx;
mod rprox;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rprox_tests::netns::Netns;
use rprox_tests::process::Process;

use super::cost;
use super::ends::HOST;

/// The processor that the proxy under test has to itself.
const PROCESSOR: &str = "0";

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Nginx,
    Haproxy,
    Caddy,
    Rprox,
}

/// What every proxy is set up with.
pub(super) struct Setting<'a> {
    pub(super) netns: &'a Netns,
    pub(super) folder: PathBuf,
    pub(super) upstream: u16,
    /// `HOST` and this many others, all to the same upstream.
    pub(super) other_hosts: usize,
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

    /// A command that runs `program` on the proxy's processor.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.netns.command("taskset");
        command.args(["--cpu-list", PROCESSOR]).arg(program);
        command
    }
}

impl Peer {
    pub(super) const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Caddy, Self::Rprox];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Rprox => "rprox",
        }
    }

    /// Where it accepts plain HTTP.
    pub(super) fn http(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 8000 + self as u16 * 10).into()
    }

    /// Where it accepts TLS.
    pub(super) fn https(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 8001 + self as u16 * 10).into()
    }

    /// Starts it, and waits until it accepts.
    ///
    /// # Errors
    ///
    /// It is missing, or does not start.
    pub(super) fn start(self, setting: &Setting<'_>) -> Result<Running> {
        let command = match self {
            Self::Nginx => nginx::command(setting, self.http(), self.https())?,
            Self::Haproxy => haproxy::command(setting, self.http(), self.https())?,
            Self::Caddy => caddy::command(setting, self.http(), self.https())?,
            Self::Rprox => rprox::command(setting, self.http(), self.https())?,
        };
        let mut process = Process::start(self.name(), command)?;
        for address in [self.http(), self.https()] {
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
    /// Processor time that it has used so far.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        cost::processor_time(self.process.pid())
    }

    /// Memory that it has, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        cost::memory(self.process.pid())
    }
}
