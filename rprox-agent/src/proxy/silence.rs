//! Notices that nothing has moved for too long, and costs what moves no look at the clock.

#![forbid(unsafe_code)]

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How often it is looked within the limit whether something has moved: silence is noticed by so small a part of it late.
const LOOKS: u32 = 8;

/// How long nothing has moved.
#[derive(Debug)]
pub struct Silence {
    limit: Duration,
    /// The look that last found that something had moved.
    since: Instant,
    has_moved: bool,
    /// `None` until somebody waits.
    look: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// It may last for `limit`, from now on.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), has_moved: false, look: None }
    }

    /// Something has moved.
    pub fn is_broken(&mut self) {
        self.has_moved = true;
    }

    /// Ready once nothing has moved for the limit, and at most an eighth of it later.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(self.limit / LOOKS)));
        loop {
            ready!(look.as_mut().poll(cx));
            let now = Instant::now();
            if mem::take(&mut self.has_moved) {
                self.since = now;
            }
            let left = self.limit.saturating_sub(now - self.since);
            if left.is_zero() {
                return Poll::Ready(());
            }
            look.as_mut().reset(now + left.min(self.limit / LOOKS));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(40);

    /// How long it takes to notice silence where something has moved at each of the first `moves` looks.
    fn lasts(moves: u32) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let mut silence = Silence::new(LIMIT);
            let mut looks = 0;
            poll_fn(|cx| {
                if looks < moves {
                    silence.is_broken();
                }
                looks += 1;
                silence.poll(cx)
            })
            .await;
            start.elapsed()
        })
    }

    #[test]
    fn where_nothing_moves_it_ends_with_the_limit() {
        assert!((LIMIT..Duration::from_secs(5)).contains(&lasts(0)));
    }

    #[test]
    fn what_moves_begins_it_anew() {
        assert!((LIMIT * 3..Duration::from_secs(5)).contains(&lasts(17)));
    }
}
