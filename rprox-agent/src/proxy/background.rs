//! The thread for work that no request waits for: making rules ready, putting them into force, freeing those of before.
//!
//! Ten thousand routes take some tens of milliseconds of a processor to make, and as many to free. On a worker, or on a
//! thread that shares its processor as an equal, requests would wait for as long. So this thread is as nice as can be
//! (`sched(7)`): it takes what workers leave. One thread does one piece of work after the other, so nothing that changes the
//! rules can undo what another has just changed.

#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::live::Rules;
use super::memory::release;

/// The nice value that leaves the others most.
const NICEST: i32 = 19;

/// How often rules that are out of force are looked at until nobody goes by them any more.
const LOOK: Duration = Duration::from_secs(1);

/// Gives the thread what to do. It ends with what it was given when this is dropped.
pub struct Background(Sender<Order>);

enum Order {
    Work(Box<dyn FnOnce() + Send>),
    LetGo(Arc<Rules>),
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can't be another.
    pub fn new() -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel();
        thread::Builder::new().name("background".to_owned()).spawn(move || run(&ordered))?;
        Ok(Self(orders))
    }

    /// Has `work` done after all that was asked for before, whether or not anybody waits for what it comes to. Nothing comes
    /// of it if it panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        self.order(Order::Work(Box::new(move || drop(done.send(work())))));
        result
    }

    /// Frees `rules`, which are out of force, once nobody goes by them any more.
    pub fn let_go(&self, rules: Arc<Rules>) {
        self.order(Order::LetGo(rules));
    }

    fn order(&self, order: Order) {
        // The thread outlives this.
        let _ = self.0.send(order);
    }
}

fn run(orders: &Receiver<Order>) {
    if let Err(error) = rustix::process::setpriority_process(None, NICEST) {
        tracing::debug!(%error, "reloads take as much of a processor as requests");
    }
    let mut out_of_force: Vec<Arc<Rules>> = Vec::new();
    loop {
        let order = if out_of_force.is_empty() {
            orders.recv().map_err(RecvTimeoutError::from)
        } else {
            orders.recv_timeout(LOOK)
        };
        match order {
            // The panic has been logged, and what was in force is in force still.
            Ok(Order::Work(work)) => drop(catch_unwind(AssertUnwindSafe(work))),
            Ok(Order::LetGo(rules)) => out_of_force.push(rules),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let kept = out_of_force.len();
        // Nobody can come by those that are only here.
        out_of_force.retain(|rules| Arc::strong_count(rules) > 1);
        if out_of_force.len() < kept {
            // What is in force lies between the holes.
            release::unused();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_order_on_a_thread_that_leaves_the_processor_to_others() {
        let background = Background::new().unwrap();
        let first = background.run(|| rustix::process::getpriority_process(None).unwrap());
        let second = background.run(|| 2);
        assert_eq!(second.blocking_recv(), Ok(2));
        assert_eq!(first.blocking_recv(), Ok(NICEST));
        assert_ne!(rustix::process::getpriority_process(None).unwrap(), NICEST, "of that thread alone");
    }

    #[test]
    fn work_that_panics_is_no_end() {
        let background = Background::new().unwrap();
        assert!(background.run(|| panic!("as meant")).blocking_recv().is_err());
        assert_eq!(background.run(|| 1).blocking_recv(), Ok(1));
    }
}
