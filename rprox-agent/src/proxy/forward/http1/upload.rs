//! A request's body on its way to the upstream while its response is waited for.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

use super::shared::Shared;
use crate::proxy::forward::body::{RequestBody, UploadError};
use crate::proxy::http1::message::{self, Outgoing};

/// A request on its way.
pub(super) type Upload = Outgoing<RequestBody>;

/// Why a request can't be sent to its end. Where the connection takes no more, a response may have come all the same.
pub(super) type Failed = message::Failed<UploadError>;

/// An upload in a task of its own, so that it goes on while nobody takes the response.
pub(super) struct Task {
    handle: AbortHandle,
    outcome: Rc<RefCell<Outcome>>,
}

#[derive(Default)]
struct Outcome {
    result: Option<Result<(), Failed>>,
    waiting: Option<Waker>,
}

impl Task {
    pub(super) fn spawn(mut upload: Upload, mut socket: Shared) -> Self {
        let outcome = Rc::new(RefCell::new(Outcome::default()));
        let handle = tokio::task::spawn_local({
            let outcome = Rc::clone(&outcome);
            async move {
                let result = std::future::poll_fn(|cx| upload.poll(cx, &mut socket)).await;
                // The body first: it tells the client's connection what became of it.
                drop(upload);
                let mut outcome = outcome.borrow_mut();
                outcome.result = Some(result);
                if let Some(waiting) = outcome.waiting.take() {
                    waiting.wake();
                }
            }
        });
        Self { handle: handle.abort_handle(), outcome }
    }

    /// What has become of it; the task of `cx` is woken when there is something to tell.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), Failed>> {
        let mut outcome = self.outcome.borrow_mut();
        if let Some(result) = outcome.result.take() {
            return Poll::Ready(result);
        }
        outcome.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends it where it is.
    pub(super) fn abort(&self) {
        self.handle.abort();
    }
}
