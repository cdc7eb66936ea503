//! Measurements as tables, for a terminal and for a document.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Color, Table};

use super::super::series::{Measurement, Summary};

/// Measurements that have contenders in common.
pub(super) struct Section<'a> {
    contenders: Vec<&'a str>,
    rows: Vec<&'a Measurement>,
}

/// One section for each set of contenders.
pub(super) fn sections(measurements: &[Measurement]) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for measurement in measurements {
        let names = || measurement.series.iter().map(|series| series.contender.as_str());
        let known =
            sections.iter_mut().find(|section| names().any(|name| section.contenders.contains(&name)));
        match known {
            Some(section) => {
                let new: Vec<_> = names().filter(|name| !section.contenders.contains(name)).collect();
                section.contenders.extend(new);
                section.rows.push(measurement);
            }
            None => sections.push(Section { contenders: names().collect(), rows: vec![measurement] }),
        }
    }
    sections
}

impl Section<'_> {
    /// With the best in green.
    pub(super) fn in_terminal(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "unit"].into_iter().chain(self.contenders.iter().copied()));
        for row in &self.rows {
            let cells = self.cells(row).map(|(text, best)| {
                let cell = Cell::new(text).set_alignment(CellAlignment::Right);
                if best { cell.fg(Color::Green) } else { cell }
            });
            table.add_row([Cell::new(&row.name), Cell::new(row.unit)].into_iter().chain(cells));
        }
        table
    }

    /// With the best in bold.
    pub(super) fn in_markdown(&self) -> String {
        let mut text = format!("| | {} |\n", self.contenders.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(self.contenders.len()));
        for row in &self.rows {
            let _ = write!(text, "| {}, {} |", row.name, row.unit);
            for (cell, best) in self.cells(row) {
                let _ = if best { write!(text, " **{cell}** |") } else { write!(text, " {cell} |") };
            }
            text.push('\n');
        }
        text
    }

    /// What each contender came to, nothing of one that is not in the row, and whether it is the best.
    fn cells<'a>(&'a self, row: &'a Measurement) -> impl Iterator<Item = (String, bool)> + 'a {
        let best = row.best_other("");
        self.contenders.iter().map(move |contender| {
            (row.summary(contender).map(show).unwrap_or_default(), best == Some(contender))
        })
    }
}

/// `median ± spread`, short enough for a table.
fn show(summary: Summary) -> String {
    let digits = match summary.median {
        1000.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{:.digits$} ±{:.0}%", summary.median, summary.spread() * 100.0)
}
