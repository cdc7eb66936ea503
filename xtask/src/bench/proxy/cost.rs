//! Processor time for each unit of work, of every proxy.

use std::time::Duration;

use anyhow::Result;

use super::super::Extent;
use super::super::peers::Running;
use super::super::report::Report;
use super::super::series::{Better, Measurement, in_turn};
use super::testbed::Testbed;
use super::work::{self, CASES, PLAIN, PLAIN_COUNT, Work};
use super::{Plan, check};
use crate::steps::Step;

const MANY_ROUTES: &str = "HTTP/1.1, keep-alive, 1 KiB, 1,000 routes";

/// Every kind of work, then the plainest of it among a thousand routes.
pub(super) fn measure(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    let cases: Vec<_> = CASES.iter().filter(|case| plan.has(case.name, case.quick)).collect();
    if !cases.is_empty() {
        let running = testbed.start_all(0)?;
        check::bodies(testbed, &running)?;
        for case in cases {
            let step = Step::begin(case.name);
            let count = work::round(case.count, plan.extent);
            report.add_row(of_each(testbed, &running, case.name, case.work, count, plan.extent)?);
            step.finish("measured");
        }
        check::bodies(testbed, &running)?;
    }
    if plan.has(MANY_ROUTES, true) {
        let step = Step::begin(MANY_ROUTES);
        let running = testbed.start_all(999)?;
        let count = work::round(PLAIN_COUNT, plan.extent);
        let work = Work::Requests(PLAIN);
        report.add_row(of_each(testbed, &running, MANY_ROUTES, work, count, plan.extent)?);
        step.finish("measured");
    }
    Ok(())
}

fn of_each(
    testbed: &Testbed,
    running: &[Running],
    name: &str,
    work: Work,
    count: usize,
    extent: Extent,
) -> Result<Measurement> {
    let mut measurement = Measurement::new(name, work.unit(), Better::Lower);
    let contenders: Vec<&Running> = running.iter().collect();
    in_turn(extent.rounds, &contenders, |running, counts| {
        // The round that does not count warms caches, and needs less for that.
        let count = if counts { count } else { count.div_ceil(4) };
        let used = running.time_for(|| work.run(testbed, running.peer, count))?;
        if counts {
            measurement.add(running.peer.name(), microseconds_each(used, count));
        }
        Ok(())
    })?;
    Ok(measurement)
}

/// Processor time for one of `count`.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn microseconds_each(used: Duration, count: usize) -> f64 {
    used.as_secs_f64() * 1e6 / count as f64
}
