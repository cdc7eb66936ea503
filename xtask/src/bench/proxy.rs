//! `cargo xtask bench proxy`: processor time and memory of each proxy for the same work.
//!
//! A proxy has one processor to itself; load and upstream share the other and saturate first, so that requests per second
//! say little, and processor time for a request is the figure.

mod check;
mod cost;
mod latency;
mod memory;
mod scaling;
mod testbed;
mod train;
mod work;

use anyhow::{Result, bail};

use self::testbed::Testbed;
pub(super) use self::train::train;
use super::Extent;
use super::peers::Peer;
use super::report::Report;

/// Which rows are measured, and how much is done for each.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    extent: Extent,
    /// Only rows whose name holds this, also those that `--quick` leaves out.
    only: Option<&'a str>,
}

impl Plan<'_> {
    fn has(self, name: &str, quick: bool) -> bool {
        self.only.map_or(quick || !self.extent.quick, |only| name.contains(only))
    }
}

/// Measures the rows whose name holds `only`; without it all.
///
/// # Errors
///
/// Not root, a peer is missing, there is only one processor, or a response was wrong.
pub(super) fn measure(extent: Extent, only: Option<&str>) -> Result<Report> {
    needs_two_processors()?;
    let plan = Plan { extent, only };
    let testbed = Testbed::new()?;
    let _upstream = testbed.upstream()?;
    let mut report = Report::new("proxy", extent.quick);
    let titles = Peer::ALL.into_iter().map(Peer::title).collect::<Result<Vec<_>>>()?;
    report.notes.push(format!("{}.", titles.join(", ")));
    cost::measure(&testbed, plan, &mut report)?;
    latency::measure(&testbed, plan, &mut report)?;
    memory::measure(&testbed, plan, &mut report)?;
    scaling::measure(&testbed, plan, &mut report)?;
    Ok(report)
}

fn needs_two_processors() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("a proxy needs one processor to itself, and load and upstream another; this machine has one");
    }
    Ok(())
}
