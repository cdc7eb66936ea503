//! A timer that costs nothing for a deadline that is met.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{Sleep, sleep};

/// One timer that many deadlines share, one after the other.
///
/// Nearly every deadline of a request is met, and setting a timer for each would cost more than the rest of the waiting.
/// So a new deadline doesn't touch the timer: it runs on, and only when it goes off does anybody look whether the deadline
/// of that moment has passed. Only one that is nearer than the timer, as a route by label may bring it, sets it anew.
pub struct LazyTimer {
    /// `None` until there is something to wait for.
    sleep: Option<Sleep>,
    grain: Duration,
}

impl LazyTimer {
    /// A timer for deadlines that mostly are at least `grain` away when they are set; it wakes its task that often.
    #[must_use]
    pub fn new(grain: Duration) -> Self {
        Self { sleep: None, grain }
    }

    /// Ready once `deadline` has passed; until then the task will be woken in time to ask again.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.sleep.get_or_insert_with(|| sleep(self.grain));
        if deadline < timer.end() {
            timer.reset(deadline);
        }
        loop {
            ready!(Pin::new(&mut *timer).poll(cx));
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(());
            }
            timer.reset(deadline.min(now + self.grain));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_deadline_nearer_than_the_timer_is_kept() {
        runtime().block_on(async {
            let start = Instant::now();
            let mut timer = LazyTimer::new(Duration::from_hours(1));
            poll_fn(|cx| timer.poll(cx, start + Duration::from_millis(20))).await;
            assert!(start.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn a_deadline_that_moves_closer_is_kept() {
        runtime().block_on(async {
            let start = Instant::now();
            let mut timer = LazyTimer::new(Duration::from_millis(20));
            let far = start + Duration::from_hours(1);
            let near = start + Duration::from_millis(50);
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                timer.poll(cx, if polls == 1 { far } else { near })
            })
            .await;
            assert!(start.elapsed() >= Duration::from_millis(50));
            assert!(start.elapsed() < Duration::from_secs(5));
        });
    }
}
