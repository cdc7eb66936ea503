//! What the playground needs beside our own programs.

use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};

use super::apt;
use crate::steps::Step;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("strace", "strace"),
    ("systemd-socket-activate", "systemd"),
];

/// Installs what is missing.
pub(super) fn set_up() -> Result<()> {
    let step = Step::begin("Programs for the playground");
    let mut missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| programs::find(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if programs::aardvark().is_none() {
        missing.push("aardvark-dns".to_owned());
    }
    missing.dedup();
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
    step.finish(&if missing.is_empty() {
        "all there".to_owned()
    } else {
        format!("installed {}", missing.join(" "))
    });
    Ok(())
}

/// Unpacks nginx, which stands for the services in the playground.
fn unpack_nginx(step: &Step) -> Result<()> {
    apt::unpack_missing(step, "nginx", "nginx")?;
    let nginx =
        programs::nginx().context("Debian's package nginx has no /usr/sbin/nginx: install nginx by hand")?;
    command::run(Command::new(&nginx).arg("-v")).map(drop).context(
        "the unpacked nginx does not start; install what it lacks, or nginx itself (Debian then starts it on port 80)",
    )
}
