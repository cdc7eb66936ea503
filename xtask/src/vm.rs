//! A virtual machine with an older kernel, in which the same test programs run as here.
//!
//! It boots from an initramfs that holds copies of the programs, at the paths that they have here, with the libraries that they
//! ask for. There is no disk and no network. Emulation in software is enough, and works wherever qemu does.

mod boot;
mod initramfs;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rprox_tests::programs;

use self::initramfs::Initramfs;
use self::kernel::Kernel;
use crate::build::host_cargo;
use crate::setup;
use crate::steps::Step;

/// The kernel that Debian 12 has: with BTF, without TCX.
pub(crate) const DEBIAN_12: &str = "6.1";

/// How much to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What shows soonest that something is wrong.
    Short,
    /// Everything that runs without this machine's kernel.
    Long,
}

/// One run of a test program of `tests/tests`.
struct Run {
    program: &'static str,
    arguments: &'static str,
    extent: Extent,
}

const RUNS: [Run; 15] = [
    Run {
        program: "packets",
        arguments: "tcp_and_udp direct_connections vlan_tags_in_band fragments icmp::errors_about verification",
        extent: Extent::Short,
    },
    Run {
        program: "loader_lifecycle",
        arguments: "tcx attaching_twice detaching_leaves survives no_request_fails_while_rules_change",
        extent: Extent::Short,
    },
    Run { program: "devices", arguments: "needs_modules", extent: Extent::Short },
    Run { program: "stacked", arguments: "needs_modules", extent: Extent::Short },
    Run { program: "faults", arguments: "an_older_build", extent: Extent::Short },
    Run { program: "packets", arguments: "", extent: Extent::Long },
    // There are no packet filters in it.
    Run { program: "loader_lifecycle", arguments: "--skip nftables --skip firewalls", extent: Extent::Long },
    Run { program: "article", arguments: "", extent: Extent::Long },
    Run { program: "devices", arguments: "", extent: Extent::Long },
    Run { program: "stacked", arguments: "", extent: Extent::Long },
    Run { program: "faults", arguments: "an_older_build", extent: Extent::Long },
    Run { program: "steer", arguments: "", extent: Extent::Long },
    Run { program: "guard", arguments: "", extent: Extent::Long },
    Run { program: "untouched", arguments: "", extent: Extent::Long },
    Run { program: "addresses", arguments: "--skip passed_sockets", extent: Extent::Long },
];

/// Programs that the tests call, by name.
const TOOLS: [&str; 9] = ["ip", "tc", "nsenter", "setpriv", "curl", "wg", "env", "sh", "mount"];

/// Kernel modules, which load those that they need.
const MODULES: [&str; 10] = [
    "veth",
    "bridge",
    "macvlan",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "8021q",
    "bonding",
    "wireguard",
    "sch_netem",
];

/// Runs tests under the kernel `version`.
pub(crate) fn test(version: &str, extent: Extent) -> Result<()> {
    if version != DEBIAN_12 {
        bail!("the kernels to test with are: {DEBIAN_12}");
    }
    setup::for_virtual_machines()?;
    let kernel = Kernel::set_up(version)?;
    let image = build_image(&kernel, extent)?;
    let step = Step::begin(&format!("Test under Linux {}", kernel.release));
    let passed = boot::boot(&kernel.image, &image, &step)?;
    step.finish(&format!("{passed} tests passed"));
    Ok(())
}

/// Where everything of virtual machines is kept.
fn folder() -> PathBuf {
    programs::target().join("vm")
}

fn build_image(kernel: &Kernel, extent: Extent) -> Result<PathBuf> {
    let step = Step::begin("Pack a machine's files");
    let image = Initramfs::new(folder().join("root"))?;
    for module in MODULES {
        image.add_module(kernel, module)?;
    }
    for tool in TOOLS {
        let path = programs::find(tool).with_context(|| format!("{tool} is not installed"))?;
        image.add_program(&path)?;
    }
    for tool in [programs::nginx(), programs::aardvark()] {
        image.add_program(&tool.context("run `cargo xtask setup`")?)?;
    }
    let ours = programs::Programs::find()?;
    for program in [&ours.loader, &ours.agent] {
        image.add_program(program)?;
    }
    image.add_file(&programs::workspace().join("target/bpf/rprox-ebpf"))?;

    let tests = test_programs()?;
    let mut commands = Vec::new();
    for run in RUNS.iter().filter(|run| run.extent == extent) {
        let program = tests
            .iter()
            .find(|(name, _)| name == run.program)
            .map(|(_, path)| path)
            .with_context(|| format!("there is no test program {}", run.program))?;
        image.add_program(program)?;
        commands.push(format!("{} --test-threads 2 {}", program.display(), run.arguments));
    }
    image.add_init(&commands)?;
    let packed = folder().join("initramfs.gz");
    image.pack(&packed)?;
    let megabytes = fs::metadata(&packed)?.len() >> 20;
    step.finish(&format!("{megabytes} MiB"));
    Ok(packed)
}

/// The test programs of `tests/tests` by name, built.
fn test_programs() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = host_cargo("test");
    // The same packages as when they run here, so that nothing is built twice.
    cargo.args([
        "--workspace",
        "--locked",
        "--test",
        "*",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let said = rprox_tests::command::run(&mut cargo)?;
    let artifacts = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(artifacts
        .filter_map(|artifact| {
            let path = artifact.get("executable")?.as_str().map(PathBuf::from)?;
            let name = artifact.pointer("/target/name")?.as_str()?.to_owned();
            Some((name, path))
        })
        .collect())
}

/// The path of `path` below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
