//! How long to wait for somebody who is slow.

#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

/// A wait may last so long, but waits together only as long as what moves meanwhile pays for: a byte now and then, just before
/// time is up, would otherwise hold everything for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    most: Duration,
    /// Bytes that pay for a second; 0: any byte pays for everything.
    rate: u32,
    left: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// With `most` time to begin with, which is also what there can be at most.
    #[must_use]
    pub fn new(most: Duration, rate: u32) -> Self {
        Self { most, rate, left: most, since: None }
    }

    /// How long one wait may last at most.
    #[must_use]
    pub fn most(&self) -> Duration {
        self.most
    }

    /// The wait goes on, or begins.
    pub fn waits(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Bytes moved: the wait is over.
    pub fn moves(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = match self.rate {
            0 => self.most,
            rate => Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / u64::from(rate)),
        };
        self.left = self.left.saturating_add(earned).min(self.most);
    }

    /// When the wait that goes on has lasted long enough.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn waited(patience: &mut Patience, time: Duration, bytes: usize) {
        patience.since = Instant::now().checked_sub(time);
        patience.moves(bytes);
    }

    #[test]
    fn a_trickle_uses_it_up_and_a_stream_does_not() {
        let mut trickle = Patience::new(MINUTE, 100);
        for _ in 0..3 {
            waited(&mut trickle, Duration::from_secs(19), 1);
        }
        assert!(trickle.left < Duration::from_secs(4), "{:?}", trickle.left);
        let mut stream = Patience::new(MINUTE, 100);
        for _ in 0..100 {
            waited(&mut stream, Duration::from_secs(19), 1900);
        }
        assert!(stream.left > Duration::from_secs(59), "{:?}", stream.left);
    }

    #[test]
    fn without_a_rate_each_wait_is_its_own() {
        let mut patience = Patience::new(MINUTE, 0);
        waited(&mut patience, Duration::from_secs(59), 1);
        assert_eq!(patience.left, MINUTE);
        patience.waits();
        assert!(patience.deadline().unwrap() > Instant::now() + Duration::from_secs(58));
    }
}
