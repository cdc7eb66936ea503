//! What the proxies have in common.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rprox_tests::netns::Netns;

use super::super::ends::HOST;
use super::super::upstream::Kinds;

/// What every proxy is set up with.
pub(in super::super) struct Setting<'a> {
    pub(in super::super) netns: &'a Netns,
    pub(in super::super) folder: PathBuf,
    pub(in super::super) upstream: u16,
    /// The port of the upstream that ends TLS by itself.
    pub(in super::super) passthrough: Option<u16>,
    /// What rprox alone is set up with, to train it.
    pub(in super::super) various: Option<Various>,
    /// `HOST` and this many others, all to the same upstream.
    pub(in super::super) other_hosts: usize,
    /// Workers of rprox; the others have one.
    pub(in super::super) workers: usize,
    /// Where it runs, as taskset takes it.
    pub(in super::super) processors: &'static str,
    /// Files with the certificate, its key, and both.
    pub(in super::super) cert: PathBuf,
    pub(in super::super) key: PathBuf,
    pub(in super::super) both: PathBuf,
}

/// Upstreams of each kind, and the authority behind the one with TLS.
pub(in super::super) struct Various {
    pub(in super::super) kinds: Kinds,
    pub(in super::super) tls: u16,
    pub(in super::super) authority: PathBuf,
}

impl Setting<'_> {
    /// The hosts that are routed.
    pub(super) fn hosts(&self) -> impl Iterator<Item = String> {
        std::iter::once(HOST.to_owned())
            .chain((0..self.other_hosts).map(|number| format!("r{number}.{HOST}")))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A command that runs `program` on the proxy's processors.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = self.netns.command("taskset");
        command.args(["--cpu-list", self.processors]).arg(program);
        command
    }
}
