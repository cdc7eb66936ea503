//! `cargo xtask bench`: rprox beside its peers, all in one run.

mod cost;
pub(crate) mod ends;
mod load;
mod packets;
mod peers;
mod plot;
mod proxy;
mod redirect;
mod report;
mod series;
mod setup;
mod upstream;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::{build, interrupt};

/// The flags of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench            everything: 40 minutes
  cargo xtask bench redirect   only the redirect beside iptables and nftables
  cargo xtask bench --quick    fewer and shorter rounds, without the long rows: two minutes

Results are written to bench/results. The exit status is 0 whether or not the targets are met: it is for a person to judge.")]
pub(crate) struct Arguments {
    /// What to measure; everything by default
    area: Vec<Area>,

    /// Fewer and shorter rounds, without the rows that take long
    #[arg(long)]
    quick: bool,

    /// Of the redirect's and the proxy's rows, only those whose name holds TEXT, whether or not `--quick` has them
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Take the programs as they are in target/release
    #[arg(long)]
    prebuilt: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Area {
    /// The kernel programs, by the packet
    Packets,
    /// The redirect, beside iptables, nftables and none
    Redirect,
    /// The proxy, beside nginx, HAProxy, Caddy and sozu
    Proxy,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Extent {
    quick: bool,
    rounds: usize,
    /// Of each round.
    seconds: u64,
}

/// Has a build of rprox-agent do what the benchmark has it do, for a profile of it.
///
/// # Errors
///
/// Not root, something can't be installed, or a response was wrong.
pub(crate) fn train(program: &Path) -> Result<()> {
    crate::setup::for_playing()?;
    setup::set_up(false)?;
    proxy::train(program)
}

/// Measures, and shows what was found.
///
/// # Errors
///
/// Not root, something can't be installed, or a response was wrong.
pub(crate) fn bench(arguments: &Arguments) -> Result<ExitCode> {
    let areas = if arguments.area.is_empty() { Area::value_variants() } else { &arguments.area };
    crate::setup::for_playing()?;
    setup::set_up(areas.contains(&Area::Proxy))?;
    if !arguments.prebuilt {
        build::build(build::Profile::Release)?;
    }
    let extent = if arguments.quick {
        Extent { quick: true, rounds: 3, seconds: 1 }
    } else {
        Extent { quick: false, rounds: 15, seconds: 2 }
    };
    interrupt::catch()?;
    for area in areas {
        let report = match area {
            Area::Packets => packets::measure(extent.quick)?,
            Area::Redirect => redirect::measure(extent, arguments.only.as_deref())?,
            Area::Proxy => proxy::measure(extent, arguments.only.as_deref())?,
        };
        report.publish()?;
    }
    Ok(ExitCode::SUCCESS)
}
