//! The client connections of a worker, and how they are told to end.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;
use tokio::sync::Notify;

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

/// The connections that run, and whether they should finish.
#[derive(Debug, Default)]
pub struct Drain {
    stop: Cell<Stop>,
    running: RefCell<Slab<Option<Waker>>>,
    empty: Notify,
}

impl Drain {
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
        let id = self.running.borrow_mut().insert(None);
        Ticket { drain: Rc::clone(self), id, listening: false }
    }

    /// Tells all connections to finish.
    pub fn start(&self, stop: Stop) {
        self.stop.set(stop);
        self.wake();
    }

    /// Has all connections look at what they should do.
    pub fn wake(&self) {
        for waker in self.running.borrow().iter().filter_map(|(_, waker)| waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Waits until no connection runs.
    pub async fn finished(&self) {
        while self.running() > 0 {
            self.empty.notified().await;
        }
    }
}

/// A running connection's place in [`Drain`].
#[derive(Debug)]
pub struct Ticket {
    drain: Rc<Drain>,
    id: usize,
    listening: bool,
}

impl Ticket {
    /// Whether the connection should finish, and how soon; its task is woken when that changes. A task keeps its waker all its life, so
    /// only the first call costs anything.
    pub fn poll_stop(&mut self, cx: &mut Context<'_>) -> Stop {
        if !self.listening {
            self.listening = true;
            self.drain.running.borrow_mut()[self.id] = Some(cx.waker().clone());
        }
        self.drain.stop()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.drain.running.borrow_mut();
        running.remove(self.id);
        if running.is_empty() {
            self.drain.empty.notify_one();
        }
    }
}
