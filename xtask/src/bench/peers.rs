//! The proxies side by side: the same certificate, upstream and processor, each set up as its own manual advises for speed.

mod caddy;
mod door;
mod haproxy;
mod nginx;
mod rprox;
mod running;
mod setting;
mod sozu;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::command;
use rprox_tests::process::Process;
use rprox_tests::programs::{self, Programs};

pub(super) use self::door::Door;
pub(super) use self::running::Running;
pub(super) use self::setting::{Setting, Various};
use super::setup;

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
        self.start_program(&self.program()?, setting)
    }

    /// The same with a build of it that is elsewhere.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(super) fn start_program(self, program: &Path, setting: &Setting<'_>) -> Result<Running> {
        let command = match self {
            Self::Nginx => nginx::command(program, setting)?,
            Self::Haproxy => haproxy::command(program, setting)?,
            Self::Caddy => caddy::command(program, setting)?,
            Self::Sozu => sozu::command(program, setting)?,
            Self::Rprox => rprox::command(program, setting)?,
        };
        let mut process = Process::start(self.name(), command)?;
        let passthrough = setting.passthrough.map(|_| Door::Passthrough);
        for door in [Door::Http, Door::Https].into_iter().chain(passthrough) {
            let address = self.at(door);
            process.wait_until(&format!("{address} to answer"), |_| setting.netns.can_connect(address))?;
        }
        Ok(Running { peer: self, process })
    }

    /// Its name and version.
    ///
    /// # Errors
    ///
    /// It is missing, or does not tell.
    pub(super) fn title(self) -> Result<String> {
        let flag = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Caddy => "version",
            Self::Sozu | Self::Rprox => "--version",
        };
        let said = command::finish(Command::new(self.program()?).arg(flag))?;
        let said = said.stdout + &said.stderr;
        let mut words = said.split([' ', '/', '\n']);
        let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        Ok(format!("{} {}", self.name(), version.with_context(|| format!("no version in: {said}"))?))
    }

    fn program(self) -> Result<PathBuf> {
        let found = match self {
            Self::Nginx => programs::nginx(),
            Self::Haproxy => programs::unpacked("haproxy", "haproxy"),
            Self::Caddy => programs::unpacked("caddy", "caddy"),
            Self::Sozu => Some(setup::sozu()).filter(|program| program.exists()),
            Self::Rprox => Some(Programs::find()?.agent),
        };
        found.with_context(|| format!("no {}: run `cargo xtask bench`", self.name()))
    }
}
