//! What is shown and kept of a run: tables, JSON, plots, and a verdict for each target.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Color, Table};
use rprox_tests::programs;
use serde::Serialize;

use super::load::show;
use super::plot;
use super::series::{Measurement, Summary};

/// What one area of the benchmark found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) area: &'static str,
    pub(super) machine: Machine,
    pub(super) measurements: Vec<Measurement>,
    pub(super) verdicts: Vec<Verdict>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    kernel: String,
    processors: usize,
    quick: bool,
}

/// A target, and whether it was met.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) target: String,
    pub(super) figure: Option<Summary>,
    pub(super) met: bool,
}

impl Verdict {
    /// Whether a ratio is at least `limit`.
    pub(super) fn at_least(target: String, figure: Option<Summary>, limit: f64) -> Self {
        Self { target, met: figure.is_some_and(|figure| figure.median >= limit), figure }
    }

    /// Whether a figure is at most `limit`.
    pub(super) fn at_most(target: String, figure: Option<Summary>, limit: f64) -> Self {
        Self { target, met: figure.is_some_and(|figure| figure.median <= limit), figure }
    }
}

impl Report {
    pub(super) fn new(area: &'static str, quick: bool) -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = Machine { kernel, processors, quick };
        Self { area, machine, measurements: Vec::new(), verdicts: Vec::new() }
    }

    /// Shows it, and writes it to `bench/results`. Returns whether every target was met.
    ///
    /// # Errors
    ///
    /// The files can't be written.
    pub(super) fn publish(&self) -> Result<bool> {
        println!("{}", self.table());
        for verdict in &self.verdicts {
            let met = if verdict.met { "met   " } else { "missed" };
            let figure = verdict.figure.map_or_else(
                || "not measured".to_owned(),
                |figure| format!("{:.3} ({:.3} to {:.3})", figure.median, figure.least, figure.most),
            );
            println!("{met}  {}: {figure}", verdict.target);
        }
        let folder = folder();
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(format!("{}.json", self.area));
        fs::write(&file, serde_json::to_string_pretty(self)?).with_context(|| file.display().to_string())?;
        for measurement in &self.measurements {
            plot::draw(measurement, &folder.join(format!("{}-{}.svg", self.area, slug(&measurement.name))))?;
        }
        println!("written to {}", folder.display());
        Ok(self.verdicts.iter().all(|verdict| verdict.met))
    }

    fn table(&self) -> Table {
        let mut contenders: Vec<&str> = Vec::new();
        for series in self.measurements.iter().flat_map(|measurement| &measurement.series) {
            if !contenders.contains(&series.contender.as_str()) {
                contenders.push(&series.contender);
            }
        }
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "unit"].into_iter().chain(contenders.iter().copied()));
        for measurement in &self.measurements {
            let best = measurement.best_other("");
            let cells = contenders.iter().map(|contender| {
                let text = measurement.summary(contender).map(show).unwrap_or_default();
                let cell = Cell::new(text).set_alignment(CellAlignment::Right);
                if best == Some(contender) { cell.fg(Color::Green) } else { cell }
            });
            table.add_row(
                [Cell::new(&measurement.name), Cell::new(measurement.unit)].into_iter().chain(cells),
            );
        }
        table
    }
}

fn folder() -> PathBuf {
    programs::workspace().join("bench/results")
}

fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let words: String = name.chars().map(plain).collect();
    words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}
