//! The client connections of a worker: they hear from here that they are to end, and that a deadline of theirs has passed.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::proxy::timer::{sleep_until, timeout_at};

/// Deadlines are looked at together, and so pass late: by this part of the shortest time-out, at most.
const LATE: u32 = 16;

/// How a worker is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Another process accepts from now on: clients are to go there, each when it suits it.
    HandOver,
    /// As soon as what runs has finished.
    Now,
}

/// The connections that run, whether they should finish, and what each waits for until when.
#[derive(Debug, Default)]
pub struct Roster {
    stop: Cell<Stop>,
    running: RefCell<Slab<Entry>>,
    /// When the deadlines are looked at next; `None` while there is none.
    next_look: Cell<Option<Instant>>,
    /// Told of a deadline before that.
    sooner: Notify,
    /// Counts how often connections were woken.
    alarm: Cell<u32>,
    empty: Notify,
}

/// A connection.
#[derive(Debug, Default)]
struct Entry {
    /// Its task's.
    waker: Option<Waker>,
    deadline: Option<Instant>,
    /// Whether a deadline has passed that the connection has not asked for since.
    is_due: bool,
}

impl Roster {
    /// Whether connections should finish what they do and end, and how soon.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.get()
    }

    /// How many connections run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.borrow().len()
    }

    /// Counts a connection until the ticket is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Ticket {
        let id = self.running.borrow_mut().insert(Entry::default());
        Ticket { roster: Rc::clone(self), id }
    }

    /// Tells all connections to finish.
    pub fn start(&self, stop: Stop) {
        self.stop.set(stop);
        self.wake();
    }

    /// Has all connections look at what they should do.
    pub fn wake(&self) {
        self.raise_alarm();
        for waker in self.running.borrow().iter().filter_map(|(_, entry)| entry.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Changes whenever connections are woken.
    #[must_use]
    pub fn alarm(&self) -> u32 {
        self.alarm.get()
    }

    fn raise_alarm(&self) {
        self.alarm.update(|alarm| alarm.wrapping_add(1));
    }

    /// Waits until no connection runs.
    pub async fn finished(&self) {
        while self.running() > 0 {
            self.empty.notified().await;
        }
    }

    /// Wakes, for ever, the connections whose deadline has passed. `grain` is the shortest time-out that there is.
    ///
    /// Nearly every deadline is met. One look now and then at those of all connections costs less than a timer for each, and takes less
    /// memory.
    pub async fn keep_time(&self, grain: impl Fn() -> Duration) {
        loop {
            let now = Instant::now();
            let grain = grain();
            let soonest = now + grain / LATE;
            let nearest = self.look(now);
            let next =
                (self.running() > 0).then(|| nearest.map_or(now + grain, |nearest| nearest.max(soonest)));
            self.next_look.set(next);
            let sooner = self.sooner.notified();
            match next {
                Some(next) => drop(timeout_at(next, sooner).await),
                None => sooner.await,
            }
            sleep_until(soonest).await;
        }
    }

    /// Wakes those whose deadline has passed; when the next will.
    fn look(&self, now: Instant) -> Option<Instant> {
        let mut nearest: Option<Instant> = None;
        for (_, entry) in self.running.borrow_mut().iter_mut() {
            let Some(deadline) = entry.deadline else { continue };
            if deadline > now {
                nearest = Some(nearest.map_or(deadline, |nearest| nearest.min(deadline)));
                continue;
            }
            entry.deadline = None;
            entry.is_due = true;
            self.raise_alarm();
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
        nearest
    }
}

/// A running connection's place in [`Roster`].
#[derive(Debug)]
pub struct Ticket {
    roster: Rc<Roster>,
    id: usize,
}

impl Ticket {
    /// Whether the connection should finish, and how soon; its task is woken when that changes.
    pub fn poll_stop(&mut self, cx: &mut Context<'_>) -> Stop {
        self.roster.running.borrow_mut()[self.id].listen(cx);
        self.roster.stop()
    }

    /// Ready once `deadline` has passed, and then a little; the task is woken.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let entry = &mut self.roster.running.borrow_mut()[self.id];
        entry.listen(cx);
        if mem::take(&mut entry.is_due) && deadline <= Instant::now() {
            return Poll::Ready(());
        }
        entry.deadline = Some(deadline);
        if self.roster.next_look.get().is_none_or(|next| deadline < next) {
            self.roster.sooner.notify_one();
        }
        Poll::Pending
    }

    /// Forgets which task the connection had, and what it waited for: who asks next is told.
    pub fn change_hands(&mut self) {
        self.roster.running.borrow_mut()[self.id] = Entry::default();
    }
}

impl Entry {
    /// A task keeps its waker all its life, so only the first call costs anything.
    fn listen(&mut self, cx: &Context<'_>) {
        if self.waker.is_none() {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.roster.running.borrow_mut();
        running.remove(self.id);
        if running.is_empty() {
            self.roster.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Waits with each of the time-outs, in milliseconds, at the same time; how long each lasted.
    fn wait(timeouts: &[u64], grain: u64) -> Vec<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(tokio::task::LocalSet::new().run_until(async {
            let roster = Rc::new(Roster::default());
            let keeper = Rc::clone(&roster);
            tokio::task::spawn_local(async move { keeper.keep_time(|| Duration::from_millis(grain)).await });
            let mut waits = Vec::new();
            for timeout in timeouts {
                let mut ticket = roster.enter();
                let timeout = Duration::from_millis(*timeout);
                waits.push(tokio::task::spawn_local(async move {
                    let start = Instant::now();
                    poll_fn(|cx| ticket.poll_deadline(cx, start + timeout)).await;
                    start.elapsed()
                }));
            }
            let mut lasted = Vec::new();
            for wait in waits {
                lasted.push(wait.await.unwrap());
            }
            lasted
        }))
    }

    #[test]
    fn no_deadline_is_missed_and_none_is_early() {
        let timeouts = [160, 161, 500, 170, 4];
        for (timeout, lasted) in timeouts.iter().zip(wait(&timeouts, 160)) {
            assert!(lasted >= Duration::from_millis(*timeout), "{timeout}: {lasted:?}");
        }
    }

    #[test]
    fn a_deadline_that_is_put_off_does_not_pass() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(async {
            let roster = Rc::new(Roster::default());
            let mut ticket = roster.enter();
            let mut cx = Context::from_waker(Waker::noop());
            let start = Instant::now();
            assert!(ticket.poll_deadline(&mut cx, start + Duration::from_secs(1)).is_pending());
            assert_eq!(roster.look(start + Duration::from_secs(1)), None);
            let later = start + Duration::from_secs(2);
            assert!(ticket.poll_deadline(&mut cx, later).is_pending());
            assert_eq!(roster.look(start + Duration::from_secs(1)), Some(later));
        });
    }
}
