//! What was measured: rounds of each contender, taken in turn, so that what changes on the machine changes for all of them.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::interrupt;

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// One figure of each contender.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measurement {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) series: Vec<Series>,
}

/// One contender's rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Series {
    pub(super) contender: String,
    pub(super) rounds: Vec<f64>,
}

/// A median with the rounds that were furthest from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Summary {
    /// `None` of no figures.
    pub(super) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.iter().copied().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            *sorted.get(middle)?
        } else {
            f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?)
        };
        Some(Self { median, least: *sorted.first()?, most: *sorted.last()? })
    }

    /// Half of the distance between the furthest rounds, as a share of the median; 0 where they don't differ.
    pub(super) fn spread(self) -> f64 {
        let distance = (self.most - self.least) / 2.0;
        if distance > 0.0 { distance / self.median } else { 0.0 }
    }
}

impl Measurement {
    pub(super) fn new(name: &str, unit: &'static str, better: Better) -> Self {
        Self { name: name.to_owned(), unit, better, series: Vec::new() }
    }

    /// One more round of `contender`.
    pub(super) fn add(&mut self, contender: &str, figure: f64) {
        match self.series.iter_mut().find(|series| series.contender == contender) {
            Some(series) => series.rounds.push(figure),
            None => self.series.push(Series { contender: contender.to_owned(), rounds: vec![figure] }),
        }
    }

    /// The rounds of `contender`.
    pub(super) fn rounds(&self, contender: &str) -> &[f64] {
        self.series
            .iter()
            .find(|series| series.contender == contender)
            .map_or(&[], |series| series.rounds.as_slice())
    }

    /// What `contender` came to.
    pub(super) fn summary(&self, contender: &str) -> Option<Summary> {
        Summary::of(self.rounds(contender))
    }

    /// `ours` divided by `peer`, round by round.
    pub(super) fn ratio(&self, ours: &str, peer: &str) -> Option<Summary> {
        let rounds = self.rounds(ours).iter().zip(self.rounds(peer));
        Summary::of(&rounds.map(|(ours, peer)| ours / peer).collect::<Vec<_>>())
    }

    /// The best of the contenders other than `ours`, by its median.
    pub(super) fn best_other(&self, ours: &str) -> Option<&str> {
        let others = self.series.iter().filter(|series| series.contender != ours);
        let medians = others.filter_map(|series| Some((Summary::of(&series.rounds)?.median, series)));
        let by_median = |a: &(f64, &Series), b: &(f64, &Series)| a.0.total_cmp(&b.0);
        let best = match self.better {
            Better::Higher => medians.max_by(by_median),
            Better::Lower => medians.min_by(by_median),
        };
        best.map(|(_, series)| series.contender.as_str())
    }
}

/// Runs `measure` for every contender in turn, `rounds` times, after one round that does not count: caches are cold in it.
///
/// # Errors
///
/// The first that `measure` gives, or the user asked for the end.
pub(super) fn in_turn<C: Copy>(
    rounds: usize,
    contenders: &[C],
    mut measure: impl FnMut(C, bool) -> Result<()>,
) -> Result<()> {
    for round in 0..=rounds {
        for contender in contenders {
            ensure!(!interrupt::came(), "interrupted; nothing is left of it");
            measure(*contender, round > 0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_each_round() {
        let mut measurement = Measurement::new("requests", "1/s", Better::Higher);
        for (ours, peer) in [(10.0, 5.0), (30.0, 10.0), (100.0, 100.0)] {
            measurement.add("ours", ours);
            measurement.add("peer", peer);
        }
        let ratio = measurement.ratio("ours", "peer");
        assert_eq!(ratio, Some(Summary { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(measurement.best_other("ours"), Some("peer"));
        assert_eq!(measurement.summary("nobody"), None);
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_between_two() {
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0, 2.0]).map(|summary| summary.median), Some(2.5));
    }
}
