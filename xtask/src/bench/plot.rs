//! A bar for each contender's median, and a line from its least round to its most.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::series::{Better, Measurement};

const SIZE: (u32, u32) = (640, 320);
const BAR: RGBColor = RGBColor(70, 120, 180);
const OURS: RGBColor = RGBColor(200, 90, 40);

/// Draws `measurement` into the SVG `file`.
///
/// # Errors
///
/// It can't be written.
pub(super) fn draw(measurement: &Measurement, file: &Path) -> Result<()> {
    let bars: Vec<_> = measurement
        .series
        .iter()
        .filter_map(|series| Some((series.contender.as_str(), measurement.summary(&series.contender)?)))
        .collect();
    let most = bars.iter().map(|(_, summary)| summary.most).fold(0.0, f64::max);
    let hint = if measurement.better == Better::Higher { "more is better" } else { "less is better" };
    let Some(last) = bars.len().checked_sub(1) else { return Ok(()) };

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&measurement.name, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d((0..last).into_segmented(), 0.0..most * 1.1)?;
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => {
            bars.get(*place).map_or_else(String::new, |(name, _)| (*name).to_owned())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(bars.len())
        .x_label_formatter(&name)
        .y_desc(format!("{} ({hint})", measurement.unit))
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(place, (name, summary))| {
        let colour = if name.starts_with("rprox") { OURS } else { BAR };
        let corners = [(SegmentValue::Exact(place), 0.0), (SegmentValue::Exact(place + 1), summary.median)];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(0, 0, 12, 12);
        bar
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(place, (_, summary))| {
        let place = SegmentValue::CenterOf(place);
        PathElement::new([(place.clone(), summary.least), (place, summary.most)], BLACK)
    }))?;
    area.present()?;
    Ok(())
}
