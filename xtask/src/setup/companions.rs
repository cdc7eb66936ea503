//! What the playground needs beside our own programs.

use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};

use super::apt;
use crate::steps::Step;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 17] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("slowhttptest", "slowhttptest"),
    ("strace", "strace"),
    ("bpftool", "bpftool"),
    ("systemd-socket-activate", "systemd"),
    ("dnsmasq", "dnsmasq-base"),
    ("openssl", "openssl"),
    ("pebble", "pebble"),
    ("pebble-challtestsrv", "pebble"),
    ("lintian", "lintian"),
];

/// Installs what is missing.
pub(super) fn set_up() -> Result<()> {
    let step = Step::begin("Programs for the playground");
    let mut missing = apt::missing(&PROGRAMS);
    if programs::aardvark().is_none() {
        missing.push("aardvark-dns".to_owned());
    }
    if !has_grpcio() {
        missing.push("python3-grpcio".to_owned());
    }
    let nginx_missing = programs::nginx().is_none();
    if !missing.is_empty() {
        apt::install(&step, &missing)?;
    }
    if nginx_missing {
        unpack_nginx(&step)?;
        missing.push("nginx".to_owned());
    }
    let features = command::run(Command::new("curl").arg("--version"))?;
    if !features.contains("HTTP2") {
        bail!("this curl can't speak HTTP/2; the playground asks with it: install one that can");
    }
    step.finish(&apt::installed(&missing));
    Ok(())
}

/// Whether the system's own Python, which has the distribution's packages, has gRPC's.
fn has_grpcio() -> bool {
    command::run(Command::new("/usr/bin/python3").args(["-c", "import grpc"])).is_ok()
}

/// Unpacks Debian's nginx beside the other tools. Installed as a package, it would start a service on port 80, and again
/// at every boot.
fn unpack_nginx(step: &Step) -> Result<()> {
    if !apt::is_here() {
        bail!("there is no nginx, which stands for the services in the playground: install it");
    }
    apt::unpack(step, "nginx")?;
    let nginx =
        programs::nginx().context("Debian's package nginx has no /usr/sbin/nginx: install nginx by hand")?;
    command::run(Command::new(&nginx).arg("-v")).map(drop).context(
        "the unpacked nginx does not start; install what it lacks, or nginx itself (Debian then starts it on port 80)",
    )
}
