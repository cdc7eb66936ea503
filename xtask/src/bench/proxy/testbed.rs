//! Where it all happens: a network namespace, a certificate, and what every proxy is set up with.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rprox_tests::certificates::Authority;
use rprox_tests::netns::Netns;
use rprox_tests::run_dir::RunDir;

use super::super::ends::HOST;
use super::super::peers::{PROCESSOR, Peer, Running, Setting};

/// The port of the upstream.
pub(super) const UPSTREAM: u16 = 9000;

/// The namespace and the files.
pub(super) struct Testbed {
    pub(super) netns: Netns,
    /// The certificate that clients trust.
    pub(super) authority: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    both: PathBuf,
    run_dir: RunDir,
}

impl Testbed {
    pub(super) fn new() -> Result<Self> {
        let run_dir = RunDir::new()?;
        let netns = Netns::new("bench")?;
        netns.sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
        // What one proxy leaves in TIME_WAIT must not burden the next.
        netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        let authority = Authority::new()?;
        let made = authority.sign(HOST)?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = run_dir.path().join(name);
            std::fs::write(&file, text)?;
            Ok(file)
        };
        Ok(Self {
            authority: write("ca.pem", &authority.pem())?,
            cert: write("cert.pem", &made.certificate)?,
            key: write("key.pem", &made.key)?,
            both: write("both.pem", &format!("{}{}", made.certificate, made.key))?,
            netns,
            run_dir,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        self.run_dir.path()
    }

    /// The folder with what the upstream serves, and with what is uploaded to it.
    pub(super) fn bodies(&self) -> PathBuf {
        self.folder().join("upstream")
    }

    pub(super) fn setting(&self, other_hosts: usize) -> Setting<'_> {
        Setting {
            netns: &self.netns,
            folder: self.folder().to_path_buf(),
            upstream: UPSTREAM,
            other_hosts,
            workers: 1,
            processors: PROCESSOR,
            cert: self.cert.clone(),
            key: self.key.clone(),
            both: self.both.clone(),
        }
    }

    /// Every proxy, with so many hosts beside the one that is asked for.
    pub(super) fn start_all(&self, other_hosts: usize) -> Result<Vec<Running>> {
        let setting = self.setting(other_hosts);
        Peer::ALL.into_iter().map(|peer| peer.start(&setting)).collect()
    }
}
