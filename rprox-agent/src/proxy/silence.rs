//! Notices that nothing has moved for too long, and costs what moves neither a timer nor a look at the clock.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::timer::timeout;

/// How often it is looked within the limit whether something has moved. Silence is noticed late by two looks at most: it counts from
/// the first that finds it.
const LOOKS: u32 = 16;

/// What a worker has that may fall silent: all of it is looked at together.
#[derive(Debug, Default)]
pub struct Silences {
    watched: RefCell<Slab<Entry>>,
    /// How long it is from one look to the next; `None` while there is nothing to look at.
    pace: Cell<Option<Duration>>,
    /// Told of what is to be looked at more often.
    sooner: Notify,
}

#[derive(Debug)]
struct Entry {
    limit: Duration,
    /// The first look since something moved; `None` before that.
    since: Option<Instant>,
    is_over: bool,
    /// Of the task that waits.
    waker: Option<Waker>,
}

impl Silences {
    /// Something that may be silent for `limit`, from now on.
    #[must_use]
    pub fn watch(self: &Rc<Self>, limit: Duration) -> Silence {
        if self.pace.get().is_none_or(|pace| limit / LOOKS < pace) {
            self.sooner.notify_one();
        }
        let id = self.watched.borrow_mut().insert(Entry { limit, since: None, is_over: false, waker: None });
        Silence { all: Rc::clone(self), id }
    }

    /// Wakes, for ever, those who have been silent for too long.
    pub async fn keep_time(&self) {
        loop {
            let pace = self.look(Instant::now());
            self.pace.set(pace);
            let sooner = self.sooner.notified();
            match pace {
                Some(pace) => drop(timeout(pace, sooner).await),
                None => sooner.await,
            }
        }
    }

    /// Wakes those who have been; how long it is to the next look.
    fn look(&self, now: Instant) -> Option<Duration> {
        let mut shortest: Option<Duration> = None;
        for (_, entry) in self.watched.borrow_mut().iter_mut() {
            shortest = Some(shortest.map_or(entry.limit, |shortest| shortest.min(entry.limit)));
            let since = *entry.since.get_or_insert(now);
            if now - since >= entry.limit {
                entry.is_over = true;
                if let Some(waker) = &entry.waker {
                    waker.wake_by_ref();
                }
            }
        }
        shortest.map(|shortest| shortest / LOOKS)
    }
}

/// How long nothing has moved.
#[derive(Debug)]
pub struct Silence {
    all: Rc<Silences>,
    id: usize,
}

impl Silence {
    /// Ready once nothing has moved for the limit, and at most an eighth of it later; `has_moved`: something has since the last call.
    pub fn poll(&mut self, cx: &mut Context<'_>, has_moved: bool) -> Poll<()> {
        let entry = &mut self.all.watched.borrow_mut()[self.id];
        if has_moved {
            entry.since = None;
            entry.is_over = false;
        } else if entry.is_over {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.all.watched.borrow_mut().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn poll(silence: &mut Silence, has_moved: bool) -> bool {
        silence.poll(&mut Context::from_waker(Waker::noop()), has_moved).is_ready()
    }

    /// How long it takes until silence is noticed that is broken so many times, each after half the limit, beside something that may
    /// be silent for `other`.
    fn lasts(times: u32, other: Duration) -> Duration {
        let all = Rc::new(Silences::default());
        let mut silence = all.watch(LIMIT);
        let _other = all.watch(other);
        let start = Instant::now();
        let (mut now, mut broken) = (start, 0);
        loop {
            let pace = all.look(now).unwrap();
            let breaks = broken < times && now - start >= LIMIT / 2 * (broken + 1);
            broken += u32::from(breaks);
            if poll(&mut silence, breaks) {
                return now - start;
            }
            now += pace;
        }
    }

    #[test]
    fn it_ends_with_the_limit_and_what_moves_begins_it_anew() {
        for other in [LIMIT / 7, LIMIT, LIMIT * 1000] {
            for times in [0, 1, 5] {
                let least = LIMIT / 2 * times + LIMIT;
                // What breaks it waits for a look here.
                let most = least + LIMIT / 8 + LIMIT / LOOKS;
                let lasted = lasts(times, other);
                assert!((least..=most).contains(&lasted), "{times} times beside {other:?}: {lasted:?}");
            }
        }
    }

    #[test]
    fn what_moves_at_the_last_moment_counts() {
        let all = Rc::new(Silences::default());
        let mut silence = all.watch(LIMIT);
        let now = Instant::now();
        all.look(now);
        all.look(now + LIMIT);
        assert!(!poll(&mut silence, true));
        assert!(!poll(&mut silence, false), "since then nothing has been looked at");
        all.look(now + LIMIT);
        all.look(now + LIMIT * 2);
        assert!(poll(&mut silence, false));
    }

    #[test]
    fn where_nothing_is_watched_there_are_no_looks() {
        let all = Rc::new(Silences::default());
        let now = Instant::now();
        assert_eq!(all.look(now), None);
        let silence = all.watch(LIMIT);
        assert_eq!(all.look(now), Some(LIMIT / LOOKS));
        drop(silence);
        assert_eq!(all.look(now), None);
    }

    #[test]
    fn who_waits_is_woken_however_long_others_may_be_silent() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            let all = Rc::new(Silences::default());
            let keeper = Rc::clone(&all);
            tokio::task::spawn_local(async move { keeper.keep_time().await });
            let _longer = all.watch(LIMIT);
            tokio::task::yield_now().await;
            let limit = Duration::from_millis(40);
            let start = Instant::now();
            let mut silence = all.watch(limit);
            poll_fn(|cx| silence.poll(cx, false)).await;
            assert!((limit..LIMIT / 20).contains(&start.elapsed()));
        }));
    }
}
