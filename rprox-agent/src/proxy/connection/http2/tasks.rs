//! Tasks that serve one stream after another.
//!
//! A stream's task is some 4 KiB, aligned as the runtime wants it, and copied when it is made and when it ends. Making one for each
//! request is a tenth of what the request costs, so a task that has served its stream waits for another.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::stream::{self, Stream};

/// How many wait at most.
const RESTING: usize = 128;

/// A worker's tasks that wait for a stream.
#[derive(Default)]
pub struct Tasks(RefCell<Vec<Rc<Post>>>);

/// Where a task that waits is told what comes next.
#[derive(Default)]
struct Post {
    next: Cell<Next>,
    waker: Cell<Option<Waker>>,
}

#[derive(Default)]
enum Next {
    #[default]
    Unknown,
    Stream(Stream),
    End,
}

impl Post {
    fn tell(&self, next: Next) {
        self.next.set(next);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Option<Stream> {
        poll_fn(|cx| match self.next.take() {
            Next::Stream(stream) => Poll::Ready(Some(stream)),
            Next::End => Poll::Ready(None),
            Next::Unknown => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Tasks {
    /// Has the stream served.
    pub(super) fn serve(&self, stream: Stream) {
        match self.0.borrow_mut().pop() {
            Some(post) => post.tell(Next::Stream(stream)),
            None => drop(tokio::task::spawn_local(work(stream))),
        }
    }

    /// Whether the task at `post` is to wait.
    fn rest(&self, post: &Rc<Post>) -> bool {
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

async fn work(first: Stream) {
    let post = Rc::new(Post::default());
    let mut next = Some(first);
    while let Some(stream) = next {
        let worker = Rc::clone(stream.worker());
        stream::serve(stream).await;
        if !worker.streams.rest(&post) {
            return;
        }
        drop(worker);
        next = post.next().await;
    }
}
