//! What is shown and kept of a run: tables, JSON, plots, and a verdict for each target.

mod table;

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rprox_tests::programs;
use serde::Serialize;

use self::table::Section;
use super::peers::Peer;
use super::plot;
use super::series::{Better, Measurement, Summary};

/// What one area of the benchmark found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) area: &'static str,
    pub(super) machine: Machine,
    pub(super) measurements: Vec<Measurement>,
    /// Why figures are missing.
    pub(super) notes: Vec<String>,
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

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "met" } else { "missed" };
        write!(f, "{met}: {}: ", self.target)?;
        match self.figure {
            Some(Summary { median, least, most }) => write!(f, "{median:.3} ({least:.3} to {most:.3})"),
            None => f.write_str("not measured"),
        }
    }
}

impl Report {
    pub(super) fn new(area: &'static str, quick: bool) -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = Machine { kernel, processors, quick };
        Self { area, machine, measurements: Vec::new(), notes: Vec::new(), verdicts: Vec::new() }
    }

    /// Adds figures in which rprox is to be no worse than the best of its peers.
    pub(super) fn add_row(&mut self, measurement: Measurement) {
        let target = format!("{}: no worse than the best peer", measurement.name);
        let ratio = measurement.best_other("rprox").and_then(|best| measurement.ratio("rprox", best));
        self.verdicts.push(match measurement.better {
            Better::Higher => Verdict::at_least(target, ratio, 1.0),
            Better::Lower => Verdict::at_most(target, ratio, 1.0),
        });
        self.measurements.push(measurement);
    }

    /// Says of which peers a row has no figure, and why.
    pub(super) fn note_missing(&mut self, row: &str, why: fn(Peer) -> Option<&'static str>) {
        let missing = Peer::ALL.into_iter().filter_map(|peer| Some((peer.name(), why(peer)?)));
        self.notes.extend(missing.map(|(name, why)| format!("{row}: no figure of {name}: {why}.")));
    }

    /// Shows it, and writes it to `bench/results`. Returns whether every target was met.
    ///
    /// # Errors
    ///
    /// The files can't be written.
    pub(super) fn publish(&self) -> Result<bool> {
        let sections = table::sections(&self.measurements);
        for section in &sections {
            println!("{}", section.in_terminal());
        }
        for note in &self.notes {
            println!("{note}");
        }
        for verdict in &self.verdicts {
            println!("{verdict}");
        }
        let folder = folder();
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        self.remove_old_plots(&folder)?;
        let file = folder.join(format!("{}.json", self.area));
        fs::write(&file, serde_json::to_string_pretty(self)?).with_context(|| file.display().to_string())?;
        let file = folder.join(format!("{}.md", self.area));
        fs::write(&file, self.markdown(&sections)).with_context(|| file.display().to_string())?;
        for measurement in &self.measurements {
            plot::draw(measurement, &folder.join(format!("{}-{}.svg", self.area, slug(&measurement.name))))?;
        }
        println!("written to {}", folder.display());
        Ok(self.verdicts.iter().all(|verdict| verdict.met))
    }

    /// Those of rows that this run does not have would seem to be of it.
    fn remove_old_plots(&self, folder: &Path) -> Result<()> {
        let start = format!("{}-", self.area);
        for entry in fs::read_dir(folder)? {
            let plot = entry?.path();
            let name = plot.file_stem().unwrap_or_default().to_string_lossy();
            if name.starts_with(&start) && plot.extension().is_some_and(|extension| extension == "svg") {
                fs::remove_file(&plot)?;
            }
        }
        Ok(())
    }

    fn markdown(&self, sections: &[Section<'_>]) -> String {
        let Machine { kernel, processors, quick } = &self.machine;
        let extent = if *quick { ", `--quick`" } else { "" };
        let mut text =
            format!("Linux {kernel}, {processors} processors{extent}; median ± half the spread.\n\n");
        for section in sections {
            let _ = writeln!(text, "{}", section.in_markdown());
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        for verdict in &self.verdicts {
            let _ = writeln!(text, "- {verdict}");
        }
        text
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
