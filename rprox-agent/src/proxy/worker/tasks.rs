//! Tasks that do one thing after another.
//!
//! The task of an HTTP/2 stream is some 4 KiB and that of a connection almost one, aligned as the runtime wants it, and copied when it is made and
//! when it ends. Making one for each is a tenth of what a stream costs, so a task that has done its work waits for more.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::proxy::worker::Worker;

/// How many wait at most.
const RESTING: usize = 128;

/// What such a task does.
pub trait Work: Sized + 'static {
    /// A worker's tasks for it.
    fn tasks(worker: &Worker) -> &Tasks<Self>;

    /// Does it.
    fn run(self) -> impl Future<Output = ()>;
}

/// A worker's tasks of one kind that wait.
pub struct Tasks<T>(RefCell<Vec<Rc<Post<T>>>>);

/// Where a task that waits is told what comes next.
struct Post<T> {
    next: Cell<Next<T>>,
    waker: Cell<Option<Waker>>,
}

enum Next<T> {
    Unknown,
    Work(T),
    End,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Post<T> {
    fn new(first: T) -> Self {
        Self { next: Cell::new(Next::Work(first)), waker: Cell::default() }
    }

    fn tell(&self, next: Next<T>) {
        self.next.set(next);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Option<T> {
        poll_fn(|cx| match self.next.replace(Next::Unknown) {
            Next::Work(work) => Poll::Ready(Some(work)),
            Next::End => Poll::Ready(None),
            Next::Unknown => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl<T: Work> Tasks<T> {
    /// Has `work` done, which is `worker`'s, as these are.
    pub fn give(&self, worker: &Rc<Worker>, work: T) {
        let resting = self.0.borrow_mut().pop();
        match resting {
            Some(post) => post.tell(Next::Work(work)),
            None => drop(tokio::task::spawn_local(go_on(Rc::clone(worker), Rc::new(Post::new(work))))),
        }
    }

    /// Whether the task at `post` is to wait.
    fn rest(&self, post: &Rc<Post<T>>) -> bool {
        let mut resting = self.0.borrow_mut();
        let has_room = resting.len() < RESTING;
        if has_room {
            resting.push(Rc::clone(post));
        }
        has_room
    }

    /// Ends those that wait.
    pub fn let_go(&self) {
        for post in mem::take(&mut *self.0.borrow_mut()) {
            post.tell(Next::End);
        }
    }
}

async fn go_on<T: Work>(worker: Rc<Worker>, post: Rc<Post<T>>) {
    while let Some(work) = post.next().await {
        work.run().await;
        if !T::tasks(&worker).rest(&post) {
            return;
        }
    }
}
