//! Latency at a rate that leaves room: beside the peers, and while the configuration is loaded anew.

use std::thread;

use anyhow::{Result, anyhow};

use super::super::load::H2load;
use super::super::peers::{Peer, Running};
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::Plan;
use super::testbed::{self, Testbed};
use super::work::{self, PLAIN, PLAIN_COUNT};
use crate::steps::Step;

const HALF_LOAD: &str = "99th percentile of latency at half load";
const RELOADS: &str = "99th percentile of latency at half load, 10,000 routes";
const QUIET: &str = "rprox, no reloads";
const RELOADING: &str = "rprox, one reload after the other";
/// What rprox logs of a reload.
const RELOADED: &str = "the configuration was loaded anew";
const CONNECTIONS: usize = 16;

/// Both rows.
pub(super) fn measure(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    if plan.has(HALF_LOAD, false) {
        let step = Step::begin(HALF_LOAD);
        beside_peers(testbed, plan, report)?;
        step.finish("measured");
    }
    if plan.has(RELOADS, false) {
        let step = Step::begin(RELOADS);
        reloads(testbed, plan, report)?;
        step.finish("measured");
    }
    Ok(())
}

/// At half of the rate at which the slowest is saturated.
fn beside_peers(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    let running = testbed::start(&testbed.setting(), |_| true)?;
    let mut least = f64::INFINITY;
    for running in &running {
        least = least.min(saturation(testbed, plan, running.peer)?);
    }
    let mut measurement = Measurement::new(HALF_LOAD, "ms", Better::Lower);
    let contenders: Vec<&Running> = running.iter().collect();
    in_turn(plan.extent.rounds, &contenders, |running, counts| {
        let p99 = p99(testbed, plan, running.peer, least / 2.0)?;
        if counts {
            measurement.add(running.peer.name(), p99);
        }
        Ok(())
    })?;
    report.add_row(measurement);
    Ok(())
}

/// Of rprox with and without reloads, one after the other without a pause.
fn reloads(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    let mut running = Peer::Rprox.start(&testbed.with_other_hosts(9_999))?;
    let rate = saturation(testbed, plan, Peer::Rprox)? / 2.0;
    let mut measurement = Measurement::new(RELOADS, "ms", Better::Lower);
    in_turn(plan.extent.rounds, &[QUIET, RELOADING], |column, counts| {
        let p99 = if column == QUIET {
            p99(testbed, plan, Peer::Rprox, rate)?
        } else {
            thread::scope(|scope| {
                let load = scope.spawn(|| p99(testbed, plan, Peer::Rprox, rate));
                while !load.is_finished() {
                    running.reload(RELOADED)?;
                }
                load.join().map_err(|_| anyhow!("the load panicked"))?
            })?
        };
        if counts {
            measurement.add(column, p99);
        }
        Ok(())
    })?;
    let target = "reloads of 10,000 routes: at most 2 times the latency".to_owned();
    report.verdicts.push(Verdict::at_most(target, measurement.ratio(RELOADING, QUIET), 2.0));
    report.measurements.push(measurement);
    Ok(())
}

fn saturation(testbed: &Testbed, plan: Plan<'_>, peer: Peer) -> Result<f64> {
    let load = PLAIN.load(testbed, peer);
    load.run(PLAIN_COUNT / 4)?;
    load.run(work::round(PLAIN_COUNT, plan.extent))
}

fn p99(testbed: &Testbed, plan: Plan<'_>, peer: Peer, rate: f64) -> Result<f64> {
    let load = H2load { connections: CONNECTIONS, ..PLAIN.load(testbed, peer) };
    load.p99_at(rate, plan.extent.seconds, testbed.folder())
}
