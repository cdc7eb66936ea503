//! The client connections of a worker, and how they are told to end.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::sync::Notify;

/// The connections that run, and whether they should finish.
#[derive(Debug, Default)]
pub struct Drain {
    draining: Cell<bool>,
    next: Cell<u64>,
    running: RefCell<HashMap<u64, Option<Waker>>>,
    empty: Notify,
}

impl Drain {
    /// Whether connections should finish what they do and end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// How many connections run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.borrow().len()
    }

    /// Counts a connection until the ticket is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Ticket {
        let id = self.next.get();
        self.next.set(id + 1);
        self.running.borrow_mut().insert(id, None);
        Ticket { drain: Rc::clone(self), id, listening: false }
    }

    /// Tells all connections to finish.
    pub fn start(&self) {
        self.draining.set(true);
        for waker in self.running.borrow().values().flatten() {
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
    id: u64,
    listening: bool,
}

impl Ticket {
    /// Whether the connection should finish; else its task is woken when it should. A task keeps its waker all its life, so
    /// only the first call costs anything.
    pub fn poll_draining(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.listening {
            self.listening = true;
            self.drain.running.borrow_mut().insert(self.id, Some(cx.waker().clone()));
        }
        self.drain.is_draining()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.drain.running.borrow_mut();
        running.remove(&self.id);
        if running.is_empty() {
            self.drain.empty.notify_one();
        }
    }
}
