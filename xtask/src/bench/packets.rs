//! `cargo xtask bench packets`: what the kernel programs cost for a packet.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rprox_tests::command;

use super::report::{Report, Verdict};
use super::series::{Better, Measurement};
use crate::build::host_cargo;

const NAME: &str = "processor time for a packet";
const EMPTY: &str = "empty program";
/// Of which each takes but a moment.
const ROUNDS: usize = 7;
/// An empty program's share of what a packet that is translated, or not, may cost.
const TRANSLATED: f64 = 3.0;
const UNTOUCHED: f64 = 1.5;

/// Measures.
///
/// # Errors
///
/// Not root, or the kernel programs are not built.
pub(super) fn measure(quick: bool) -> Result<Report> {
    let mut bench: Command = host_cargo("bench");
    bench
        // The programs under test are the kernel's; how the rest is built changes nothing.
        .args(["--quiet", "--profile", "dev", "--package", "rprox-tests", "--bench", "packets", "--"])
        .arg(ROUNDS.to_string());
    let said = command::run_within(Duration::from_mins(10), &mut bench)?;
    let mut measurement = Measurement::new(NAME, "ns", Better::Lower);
    for line in said.lines() {
        let (case, time) = line.split_once('\t').with_context(|| format!("not a figure: {line}"))?;
        let case = case.split_once(' ').map_or(case, |(_, case)| case);
        measurement.add(case, time.parse().with_context(|| format!("not a figure: {line}"))?);
    }
    let mut report = Report::new("packets", quick);
    for series in measurement.series.iter().filter(|series| series.contender != EMPTY) {
        let case = &series.contender;
        let limit = if case.starts_with("translated") { TRANSLATED } else { UNTOUCHED };
        let target = format!("{case}: at most {limit} times an empty program");
        report.verdicts.push(Verdict::at_most(target, measurement.ratio(case, EMPTY), limit));
    }
    report.measurements.push(measurement);
    Ok(report)
}
