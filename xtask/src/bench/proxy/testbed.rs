//! Where it all happens: a network namespace, a certificate, and what every proxy is set up with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rprox_tests::certificates::Authority;
use rprox_tests::netns::Netns;
use rprox_tests::playground::AGENT;
use rprox_tests::run_dir::RunDir;

use super::super::ends::{HOST, PASSTHROUGH_HOST};
use super::super::peers::{PROCESSOR, Peer, Running, Setting, Various};
use super::super::upstream::{self, Kinds, Tls, Upstream};

/// The ports of the upstream.
const UPSTREAM: u16 = 9000;
const UPSTREAM_TLS: u16 = 9443;
const KINDS: Kinds = Kinds { http2: 9002, chunked: 9003 };

/// The namespace and the files.
pub(super) struct Testbed {
    pub(super) netns: Netns,
    /// The certificate that clients trust.
    pub(super) authority: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    both: PathBuf,
    /// The upstream's own.
    upstream_cert: PathBuf,
    upstream_key: PathBuf,
    run_dir: RunDir,
}

impl Testbed {
    pub(super) fn new() -> Result<Self> {
        let run_dir = RunDir::new()?;
        let netns = Netns::new("bench")?;
        netns.sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
        // What one proxy leaves in TIME_WAIT must not burden the next.
        netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        // What nearly every host has. BBR, which some systems take, guesses at the rate of a link that has none.
        netns.sysctl("net/ipv4/tcp_congestion_control", "cubic")?;
        let authority = Authority::new()?;
        let made = authority.sign(HOST)?;
        let upstreams = authority.sign(PASSTHROUGH_HOST)?;
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
            upstream_cert: write("upstream.pem", &upstreams.certificate)?,
            upstream_key: write("upstream-key.pem", &upstreams.key)?,
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

    /// Starts the upstream.
    pub(super) fn upstream(&self) -> Result<Upstream> {
        let tls = Tls { port: UPSTREAM_TLS, cert: &self.upstream_cert, key: &self.upstream_key };
        upstream::Setup {
            netns: &self.netns,
            user: AGENT,
            port: UPSTREAM,
            workers: 1,
            folder: &self.bodies(),
            tls: Some(tls),
            kinds: Some(KINDS),
            pinned: true,
        }
        .start()
    }

    /// One worker on the proxy's processor, and one host.
    pub(super) fn setting(&self) -> Setting<'_> {
        Setting {
            netns: &self.netns,
            folder: self.folder().to_path_buf(),
            upstream: UPSTREAM,
            passthrough: None,
            various: None,
            other_hosts: 0,
            workers: 1,
            processors: PROCESSOR,
            cert: self.cert.clone(),
            key: self.key.clone(),
            both: self.both.clone(),
        }
    }

    /// The same with so many hosts beside the one that is asked for.
    pub(super) fn with_other_hosts(&self, other_hosts: usize) -> Setting<'_> {
        Setting { other_hosts, ..self.setting() }
    }

    /// The same with the upstream that ends TLS itself.
    pub(super) fn with_passthrough(&self) -> Setting<'_> {
        Setting { passthrough: Some(UPSTREAM_TLS), ..self.setting() }
    }

    /// The same with an upstream of each kind, by what is asked for, and with the access log.
    pub(super) fn with_various(&self) -> Setting<'_> {
        let various = Various { kinds: KINDS, tls: UPSTREAM_TLS, authority: self.authority.clone() };
        Setting { various: Some(various), ..self.setting() }
    }
}

/// The kernel's order to let go of what it has read of files, and nobody has mapped or written (`proc_sys_vm(5)`).
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Every proxy that `wanted` names, read from the disk anew: how a program's file came into memory decides how many of its pages are
/// mapped at once, and with that the process's memory. One that was just built has most.
pub(super) fn start(setting: &Setting<'_>, wanted: fn(&Peer) -> bool) -> Result<Vec<Running>> {
    rustix::fs::sync();
    std::fs::write(DROP_CACHES, "1\n").context(DROP_CACHES)?;
    Peer::ALL.into_iter().filter(wanted).map(|peer| peer.start(setting)).collect()
}
