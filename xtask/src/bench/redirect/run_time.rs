//! How long the kernel programs run, by the kernel's own account (`BPF_ENABLE_STATS`).
//!
//! The account itself takes some 20 ns of each run, for two looks at the clock, which are in the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use super::super::load::Tally;
use super::super::series::{Better, Measurement};
use super::way::Way;

/// The row of all programs together.
pub(super) const NAME: &str = "kernel programs, a new connection";

/// What all names of ours begin with.
const PREFIX: &str = "rprox_";

/// Figures of all rounds.
pub(super) struct RunTime {
    connection: Measurement,
    /// By program.
    each: BTreeMap<String, Measurement>,
}

impl RunTime {
    pub(super) fn new() -> Self {
        let connection = Measurement::new(NAME, "ns", Better::Lower);
        Self { connection, each: BTreeMap::new() }
    }

    /// One more round of `way`: of what `load` does, whose requests are a connection each.
    pub(super) fn add(&mut self, way: Way, load: impl FnOnce() -> Result<Tally>) -> Result<()> {
        let _counted = enable_stats(Stats::RunTime)?;
        let before = account();
        let tally = load()?;
        let mut all = Duration::ZERO;
        for (id, run) in account() {
            let (time, runs) = before.get(&id).map_or((Duration::ZERO, 0), |run| (run.time, run.runs));
            let (time, runs) = (run.time.saturating_sub(time), run.runs.saturating_sub(runs));
            all += time;
            if runs > 0 {
                let name = format!("{}, each run", run.name);
                let figure = nanoseconds(time) / count(runs);
                let measurement =
                    self.each.entry(run.name).or_insert_with(|| Measurement::new(&name, "ns", Better::Lower));
                measurement.add(way.name(), figure);
            }
        }
        self.connection.add(way.name(), nanoseconds(all) / tally.requests);
        Ok(())
    }

    pub(super) fn measurements(self) -> impl Iterator<Item = Measurement> {
        std::iter::once(self.connection).chain(self.each.into_values())
    }
}

/// What one program has run so far.
struct Run {
    name: String,
    time: Duration,
    runs: u64,
}

/// Of every program of ours, by its id.
fn account() -> BTreeMap<u32, Run> {
    let mut account = BTreeMap::new();
    for program in loaded_programs() {
        // Others' programs come and go.
        let Ok(program) = program else { continue };
        if let Some(name) = program.name_as_str().filter(|name| name.starts_with(PREFIX)) {
            let run = Run { name: name.to_owned(), time: program.run_time(), runs: program.run_count() };
            account.insert(program.id(), run);
        }
    }
    account
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(runs: u64) -> f64 {
    runs as f64
}
