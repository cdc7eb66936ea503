//! How long things take.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::cell::Counter;

/// The buckets' upper ends, in seconds; there is one more without.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Counts durations by their length. To be changed by its own worker alone.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    microseconds: Counter,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].increment();
        self.microseconds.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds what it has to `sum`.
    pub fn add_to(&self, sum: &mut Sum) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.get();
        }
        sum.microseconds += self.microseconds.get();
    }
}

/// The sum of histograms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    buckets: [i64; BOUNDS.len() + 1],
    microseconds: i64,
}

impl Sum {
    /// In seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        Duration::from_micros(self.microseconds.unsigned_abs()).as_secs_f64()
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<i64>().unsigned_abs()
    }

    /// Each bucket's upper end with the number of those in it.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().map(|count| count.unsigned_abs())).collect()
    }
}
