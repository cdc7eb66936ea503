//! The privilege boundary: each side of rprox-agent builds without the other, and without the other's dependencies.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use rprox_tests::command;

use super::show;
use crate::build::host_cargo;

/// A feature, and the crates that must not come with it.
const SIDES: [(&str, &[&str]); 2] = [
    (
        "loader",
        &[
            "aws-lc-rs",
            "h2",
            "hickory-proto",
            "hickory-resolver",
            "http",
            "http-body",
            "hyper",
            "hyper-util",
            "rustls",
        ],
    ),
    ("proxy", &["aya", "aya-obj", "caps", "netlink-sys", "procfs", "rtnetlink"]),
];

/// Checks both sides.
pub(super) fn check() -> Result<()> {
    for (side, forbidden) in SIDES {
        let only = ["--package", "rprox-agent", "--no-default-features", "--features", side, "--locked"];
        show(&format!("The privilege boundary: {side} alone"), host_cargo("check").args(only))?;
        let mut tree = host_cargo("tree");
        let tree =
            command::run(tree.args(only).args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]))?;
        let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let found: Vec<_> = forbidden.iter().filter(|name| names.contains(**name)).copied().collect();
        if !found.is_empty() {
            bail!("the privilege boundary is broken: feature {side} depends on {}", found.join(", "));
        }
    }
    Ok(())
}
