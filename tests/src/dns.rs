//! aardvark-dns, the name service of Podman's networks, run as Podman runs it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;
use crate::{command, programs, wait};

/// A running aardvark-dns; stopped with this guard.
#[derive(Debug)]
pub struct Dns {
    folder: PathBuf,
    start: Vec<String>,
    listen: Vec<IpAddr>,
    containers: BTreeMap<String, Container>,
    pid: Option<Pid>,
}

/// What the name service knows of a container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// What else it is called.
    pub aliases: Vec<String>,
}

impl Dns {
    /// Starts a name service in `netns` that listens on `listen`, port 53, and knows no name yet. `folder` is its own.
    ///
    /// # Errors
    ///
    /// aardvark-dns is not installed or does not start.
    pub fn start(netns: &Netns, folder: &Path, listen: &[IpAddr]) -> Result<Self> {
        let program = programs::aardvark().context("no aardvark-dns: run `cargo xtask setup`")?;
        fs::create_dir_all(folder)?;
        let net = format!("--net={}", netns.path().display());
        let mut start = vec![net, "--".into(), program.display().to_string()];
        start.extend(["--config".into(), folder.display().to_string()]);
        start.extend(["-p", "53", "run"].map(String::from));
        let mut dns = Self {
            folder: folder.to_path_buf(),
            start,
            listen: listen.to_vec(),
            containers: BTreeMap::new(),
            pid: None,
        };
        dns.resume()?;
        Ok(dns)
    }

    /// Starts it again after [`Self::stop`].
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn resume(&mut self) -> Result<()> {
        self.write()?;
        let mut aardvark = std::process::Command::new("nsenter");
        // It sends itself to the background once it listens.
        command::run(aardvark.args(&self.start))?;
        let file = self.folder.join("aardvark.pid");
        let read = || Pid::from_raw(fs::read_to_string(&file).ok()?.trim().parse().ok()?);
        self.pid = Some(wait::until(wait::READY, "aardvark-dns to start", read)?);
        Ok(())
    }

    /// Adds a container, or changes it, and has the name service read the change.
    ///
    /// # Errors
    ///
    /// The configuration can't be written.
    pub fn set(&mut self, name: &str, container: Container) -> Result<()> {
        self.containers.insert(name.to_owned(), container);
        self.reload()
    }

    /// Removes a container.
    ///
    /// # Errors
    ///
    /// As for [`Self::set`].
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.containers.remove(name);
        self.reload()
    }

    /// Puts one container in another's place, in one step as far as the name service can tell.
    ///
    /// # Errors
    ///
    /// As for [`Self::set`].
    pub fn replace(&mut self, old: &str, new: &str, container: Container) -> Result<()> {
        self.containers.remove(old);
        self.set(new, container)
    }

    /// Stops it: queries go unanswered from then on.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid.take() else { return Ok(()) };
        // KILL: it has nothing to put away, and some versions take seconds over TERM. Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
        wait::until(wait::READY, "aardvark-dns to end", || {
            // Empty for a process that ended and that nobody has waited for.
            let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            command.is_empty().then_some(())
        })?;
        let _ = fs::remove_file(self.folder.join("aardvark.pid"));
        Ok(())
    }

    fn reload(&self) -> Result<()> {
        self.write()?;
        match self.pid {
            Some(pid) => kill_process(pid, Signal::HUP).context("reload aardvark-dns"),
            None => Ok(()),
        }
    }

    /// Writes the configuration. The rename keeps a reload from reading half of it.
    fn write(&self) -> Result<()> {
        let mut text = self.listen.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        text.push('\n');
        for (number, (name, container)) in self.containers.iter().enumerate() {
            let names =
                std::iter::once(name).chain(&container.aliases).cloned().collect::<Vec<_>>().join(",");
            let ipv4 = container.ipv4.map(|address| address.to_string()).unwrap_or_default();
            let ipv6 = container.ipv6.map(|address| address.to_string()).unwrap_or_default();
            let _ = writeln!(text, "{number:064x} {ipv4} {ipv6} {names}");
        }
        // Every file in the folder is a network to aardvark-dns, so the new one is written beside it.
        let new = self.folder.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, self.folder.join("podnet")))?;
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("aardvark-dns stays behind: {error:#}");
        }
    }
}
