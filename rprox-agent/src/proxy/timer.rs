//! What a worker waits for long, kept by one timer of the kernel's (`timerfd_create(2)`).
//!
//! The event loop knows nothing of it. What it knows limits its own wait, and then the kernel sets a timer and removes it each time that the
//! worker falls asleep: of the 25 µs of a message to and fro that is 0.6.

#![forbid(unsafe_code)]

pub mod lazy;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::time::{self, Instant};

use crate::proxy::socket::watched;

thread_local! {
    static HERE: RefCell<Option<Rc<Alarms>>> = const { RefCell::new(None) };
}

/// All that this thread waits for.
struct Alarms {
    timer: AsyncFd<OwnedFd>,
    /// When it goes off.
    set_for: Cell<Option<Instant>>,
    waits: RefCell<Waits>,
}

#[derive(Default)]
struct Waits {
    all: Slab<Wait>,
    /// Those that are not over, by their ends.
    ends: BTreeSet<(Instant, usize)>,
}

#[derive(Default)]
struct Wait {
    is_over: bool,
    waker: Option<Waker>,
}

/// Keeps time on this thread until it is dropped.
#[must_use]
pub struct Keeper(());

/// Keeps time on this thread, by its event loop, for every [`Sleep`] that begins from now on.
///
/// # Errors
///
/// When there are no descriptors or no memory for it.
pub fn keep_time() -> io::Result<Keeper> {
    let timer = rustix::time::timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let alarms = Rc::new(Alarms {
        timer: watched::for_reading(timer)?,
        set_for: Cell::default(),
        waits: RefCell::default(),
    });
    HERE.set(Some(Rc::clone(&alarms)));
    tokio::task::spawn_local(async move { while alarms.ring().await.is_ok() {} });
    Ok(Keeper(()))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

/// Waits until `end`.
pub fn sleep_until(end: Instant) -> Sleep {
    let way = HERE.with_borrow(|here| match here {
        Some(alarms) => Way::Alarm { alarms: Rc::clone(alarms), id: alarms.add(end) },
        None => Way::EventLoop(Box::pin(time::sleep_until(end))),
    });
    Sleep { end, way }
}

/// Waits so long.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// What comes of `what`; `None` if that takes longer than `limit`.
pub async fn timeout<T>(limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    // Begins only where there is something to wait for.
    before(async { sleep(limit).await }, what).await
}

/// What comes of `what`; `None` if nothing has by `end`.
pub async fn timeout_at<T>(end: Instant, what: impl Future<Output = T>) -> Option<T> {
    before(async { sleep_until(end).await }, what).await
}

async fn before<T>(end: impl Future<Output = ()>, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        came = what => Some(came),
        () = end => None,
    }
}

/// Ready once its end has come.
#[must_use]
pub struct Sleep {
    end: Instant,
    way: Way,
}

/// Who knows of it.
enum Way {
    Alarm {
        alarms: Rc<Alarms>,
        id: usize,
    },
    /// On a thread on which nobody keeps time.
    EventLoop(Pin<Box<time::Sleep>>),
}

impl Sleep {
    /// When it ends.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Has it end at another time, whether or not it is over.
    pub fn reset(&mut self, end: Instant) {
        match &mut self.way {
            Way::Alarm { alarms, id } => alarms.change(*id, self.end, end),
            Way::EventLoop(sleep) => sleep.as_mut().reset(end),
        }
        self.end = end;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.way {
            Way::Alarm { alarms, id } => alarms.poll(cx, *id),
            Way::EventLoop(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Way::Alarm { alarms, id } = &self.way {
            alarms.remove(*id, self.end);
        }
    }
}

impl Alarms {
    fn add(&self, end: Instant) -> usize {
        let waits = &mut *self.waits.borrow_mut();
        let id = waits.all.insert(Wait::default());
        waits.ends.insert((end, id));
        self.set(end);
        id
    }

    fn change(&self, id: usize, before: Instant, end: Instant) {
        let waits = &mut *self.waits.borrow_mut();
        waits.ends.remove(&(before, id));
        waits.ends.insert((end, id));
        waits.all[id].is_over = false;
        self.set(end);
    }

    fn remove(&self, id: usize, end: Instant) {
        let waits = &mut *self.waits.borrow_mut();
        waits.ends.remove(&(end, id));
        waits.all.remove(id);
    }

    fn poll(&self, cx: &Context<'_>, id: usize) -> Poll<()> {
        let wait = &mut self.waits.borrow_mut().all[id];
        if wait.is_over {
            return Poll::Ready(());
        }
        if !wait.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            wait.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Has the timer go off at `end`, unless it does before.
    fn set(&self, end: Instant) {
        if self.set_for.get().is_some_and(|set_for| set_for <= end) {
            return;
        }
        self.set_for.set(Some(end));
        // Zero would stop it.
        let left = (end - Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        if let Err(error) =
            rustix::time::timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)
        {
            tracing::error!(%error, "timerfd_settime refused: time-outs are not kept");
        }
    }

    /// Waits for the timer, and wakes those whose end has come.
    async fn ring(&self) -> io::Result<()> {
        let mut readiness = self.timer.readable().await?;
        let _ = rustix::io::read(readiness.get_inner(), &mut [0; 8]);
        readiness.clear_ready();
        self.set_for.set(None);
        let now = Instant::now();
        while let Some(waker) = self.next_over(now) {
            waker.wake();
        }
        Ok(())
    }

    /// Who waits for the next end that has come; has the timer go off at the first that hasn't.
    fn next_over(&self, now: Instant) -> Option<Waker> {
        let waits = &mut *self.waits.borrow_mut();
        while let Some((end, id)) = waits.ends.first().copied() {
            if end > now {
                self.set(end);
                return None;
            }
            waits.ends.pop_first();
            let wait = &mut waits.all[id];
            wait.is_over = true;
            if wait.waker.is_some() {
                return wait.waker.take();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn on_a_worker<T>(what: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let _keeper = keep_time().unwrap();
            what.await
        }))
    }

    /// How long it takes to sleep for `wait`.
    async fn lasts(wait: Duration) -> Duration {
        let start = Instant::now();
        sleep(wait).await;
        start.elapsed()
    }

    #[test]
    fn each_ends_in_time_and_none_before() {
        on_a_worker(async {
            let waits = [40, 20, 0, 60, 20].map(Duration::from_millis);
            let sleeps = waits.map(|wait| tokio::task::spawn_local(lasts(wait)));
            let longest = tokio::task::spawn_local(lasts(Duration::from_hours(1)));
            for (wait, sleep) in waits.into_iter().zip(sleeps) {
                let lasted = sleep.await.unwrap();
                assert!(lasted >= wait && lasted < Duration::from_secs(10), "{wait:?}: {lasted:?}");
            }
            assert!(!longest.is_finished());
        });
    }

    #[test]
    fn one_that_is_put_off_or_brought_forward_ends_as_it_was_told_last() {
        on_a_worker(async {
            let start = Instant::now();
            let mut sleep = sleep(Duration::from_hours(1));
            sleep.reset(start + Duration::from_millis(5));
            (&mut sleep).await;
            assert!(start.elapsed() < Duration::from_secs(10));
            sleep.reset(start + Duration::from_millis(50));
            let mut other = super::sleep(Duration::from_millis(1));
            other.reset(start + Duration::from_hours(1));
            sleep.await;
            assert!(start.elapsed() >= Duration::from_millis(50));
            assert_eq!(Pin::new(&mut other).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        });
    }

    #[test]
    fn one_that_nobody_waits_for_any_more_is_forgotten() {
        on_a_worker(async {
            let alarms = HERE.with_borrow(|here| Rc::clone(here.as_ref().unwrap()));
            let over = sleep(Duration::ZERO);
            drop(sleep(Duration::from_millis(1)));
            sleep(Duration::from_millis(20)).await;
            drop(over);
            let waits = alarms.waits.borrow();
            assert!(waits.all.is_empty() && waits.ends.is_empty());
        });
    }

    #[test]
    fn what_takes_too_long_is_given_up_and_what_does_not_is_had() {
        on_a_worker(async {
            let long = Duration::from_hours(1);
            assert_eq!(timeout(Duration::from_millis(1), sleep(long)).await, None);
            assert_eq!(timeout(long, sleep(Duration::from_millis(1))).await, Some(()));
            assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Some(1));
        });
    }

    #[test]
    fn the_event_loop_keeps_it_where_nobody_keeps_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let wait = Duration::from_millis(20);
        assert!(runtime.block_on(lasts(wait)) >= wait);
    }
}
