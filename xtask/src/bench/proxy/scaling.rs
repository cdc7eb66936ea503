//! What a request costs rprox where there is more of something: routes, idle connections, workers.

use anyhow::Result;

use super::super::ends::{self, Deed};
use super::super::load::H2load;
use super::super::peers::{Door, Peer, Running, Setting};
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::Plan;
use super::cost::microseconds_each;
use super::testbed::Testbed;
use super::work::{self, PLAIN, PLAIN_COUNT};
use crate::steps::Step;

/// A row of two columns, whose second is to be at most so many times the first.
struct Row {
    name: &'static str,
    columns: [&'static str; 2],
    limit: f64,
    /// Whether `--quick` has it too.
    quick: bool,
}

const ROUTES: Row = Row {
    name: "HTTP/1.1, keep-alive, 1 KiB, by routes",
    columns: ["rprox, 1", "rprox, 10,000"],
    limit: 1.05,
    quick: true,
};

const IDLE: Row = Row {
    name: "HTTP/1.1, keep-alive, 1 KiB, by idle connections",
    columns: ["rprox, 1", "rprox, 10,000"],
    limit: 1.05,
    quick: false,
};

/// Two processors do 1.8 times what one does if a request takes 2 / 1.8 of the time. Each worker has as many connections as the one
/// alone, so that it finds as many ready at a time.
const WORKERS: Row = Row {
    name: "HTTP/1.1, keep-alive, 1 KiB, by workers (load on the same processors)",
    columns: ["rprox, 1 worker", "rprox, 2 workers"],
    limit: 2.0 / 1.8,
    quick: false,
};

/// All rows.
pub(super) fn measure(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    let load = PLAIN.load(testbed, Peer::Rprox);
    row(plan, report, &ROUTES, |second| {
        let running = Peer::Rprox.start(&testbed.with_other_hosts(if second { 9_999 } else { 0 }))?;
        cost(plan, &running, &load)
    })?;
    row(plan, report, &IDLE, |second| {
        let running = Peer::Rprox.start(&testbed.setting())?;
        let count = if second { 10_000 } else { 1 };
        let target = Peer::Rprox.at(Door::Http);
        let _held = ends::hold(&testbed.netns, Deed::Hold, target, count, &testbed.authority)?;
        cost(plan, &running, &load)
    })?;
    row(plan, report, &WORKERS, |second| {
        let workers = if second { 2 } else { 1 };
        let setting = Setting { workers, processors: "0,1", ..testbed.setting() };
        let load = H2load { pinned: false, connections: load.connections * workers, ..load.clone() };
        cost(plan, &Peer::Rprox.start(&setting)?, &load)
    })
}

fn row(
    plan: Plan<'_>,
    report: &mut Report,
    row: &Row,
    mut measure: impl FnMut(bool) -> Result<f64>,
) -> Result<()> {
    if !plan.has(row.name, row.quick) {
        return Ok(());
    }
    let step = Step::begin(row.name);
    let mut measurement = Measurement::new(row.name, "µs/request", Better::Lower);
    in_turn(plan.extent.rounds, &[false, true], |second, counts| {
        let figure = measure(second)?;
        if counts {
            measurement.add(row.columns[usize::from(second)], figure);
        }
        Ok(())
    })?;
    step.finish("measured");
    let [first, second] = row.columns;
    let target = format!("{}: {second} at most {:.2} of {first}", row.name, row.limit);
    report.verdicts.push(Verdict::at_most(target, measurement.ratio(second, first), row.limit));
    report.measurements.push(measurement);
    Ok(())
}

/// Processor time for a plain request.
fn cost(plan: Plan<'_>, running: &Running, load: &H2load<'_>) -> Result<f64> {
    let count = work::round(PLAIN_COUNT, plan.extent);
    // What it does once, when a route is first used, is no request's.
    load.run(count / 4)?;
    let used = running.time_for(|| load.run(count).map(drop))?;
    Ok(microseconds_each(used, count))
}
