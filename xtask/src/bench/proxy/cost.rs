//! Processor time for each unit of work, of every proxy, and its memory behind it.

use std::time::Duration;

use anyhow::Result;

use super::super::Extent;
use super::super::peers::{Peer, Running};
use super::super::report::Report;
use super::super::series::{Better, Measurement, in_turn};
use super::Plan;
use super::check::{self, Way};
use super::memory::InAll;
use super::testbed::{self, Testbed};
use super::work::{self, CASES, Case, MANY_ROUTES, PASSTHROUGH};
use crate::steps::Step;

/// Every kind of work, then the plainest of it among a thousand routes.
pub(super) fn measure(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    let start = || testbed::start(&testbed.setting(), |_| true);
    group(testbed, plan, report, &CASES, &check::HTTP, start)?;
    let start = || testbed::start(&testbed.with_passthrough(), |peer| peer.cannot_pass().is_none());
    group(testbed, plan, report, &PASSTHROUGH, &check::PASSTHROUGH, start)?;
    if PASSTHROUGH.iter().any(|case| plan.has(case.name, case.quick)) {
        report.note_missing("TLS passthrough", Peer::cannot_pass);
    }
    let start = || testbed::start(&testbed.with_other_hosts(999), |_| true);
    group(testbed, plan, report, &MANY_ROUTES, &check::HTTP, start)
}

/// The cases of `all` that are to be measured, between two looks at what comes.
fn group(
    testbed: &Testbed,
    plan: Plan<'_>,
    report: &mut Report,
    all: &[Case],
    ways: &[Way],
    start: impl FnOnce() -> Result<Vec<Running>>,
) -> Result<()> {
    let cases: Vec<_> = all.iter().filter(|case| plan.has(case.name, case.quick)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let running = start()?;
    check::bodies(testbed, &running, &cases, ways)?;
    for case in &cases {
        let step = Step::begin(case.name);
        let (cost, memory) = of_each(testbed, &running, case, plan.extent)?;
        report.add_row(cost);
        memory.finish(report);
        step.finish("measured");
    }
    check::bodies(testbed, &running, &cases, ways)
}

fn of_each(
    testbed: &Testbed,
    running: &[Running],
    case: &Case,
    extent: Extent,
) -> Result<(Measurement, InAll)> {
    let Case { name, work, .. } = *case;
    let mut cost = Measurement::new(name, work.unit(), Better::Lower);
    let mut memory = InAll::new(name);
    let contenders: Vec<&Running> = running.iter().collect();
    in_turn(extent.rounds, &contenders, |running, counts| {
        // The round that does not count warms caches, and needs less for that.
        let count = work::round(case.count, extent);
        let count = if counts { count } else { count.div_ceil(4) };
        let used = running.time_for(|| work.run(testbed, running.peer, count))?;
        if counts {
            cost.add(running.peer.name(), microseconds_each(used, count));
            memory.look(running)?;
        }
        Ok(())
    })?;
    Ok((cost, memory))
}

/// Processor time for one of `count`.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn microseconds_each(used: Duration, count: usize) -> f64 {
    used.as_secs_f64() * 1e6 / count as f64
}
