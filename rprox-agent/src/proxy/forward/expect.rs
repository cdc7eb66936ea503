//! `Expect: 100-continue` (RFC 9110 section 10.1.1): the upstream says whether it wants a body before the client sends it.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderValue, StatusCode, Version};
use tokio::time::Instant;

use super::pool::Lease;
use super::request::UpstreamRequest;
use crate::proxy::timer::lazy::LazyTimer;

const CONTINUE: &str = "100-continue";

/// Takes the client's expectation out; whether there was one. HTTP/1.0 has none, and others than this one mean nothing.
pub(super) fn take(parts: &mut Parts) -> bool {
    let expected = parts.headers.remove(EXPECT);
    parts.version > Version::HTTP_10
        && expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(CONTINUE.as_bytes()))
}

/// Has the upstream asked, where the client does and the endpoint is one that answers, for `limit` at most.
pub(super) fn ask(request: &mut UpstreamRequest, lease: &Lease, limit: Duration) -> Option<Question> {
    if !request.body.is_expected() {
        return None;
    }
    request.head.headers.remove(EXPECT);
    let possible = !lease.endpoint().ignores_expect() && limit > Duration::ZERO;
    let question = request.body.hold(possible.then_some(limit))?;
    request.head.headers.insert(EXPECT, HeaderValue::from_static(CONTINUE));
    Some(question)
}

/// Whether an upstream wants a body, which its connection hears and the body waits for.
#[derive(Clone, Default)]
pub(super) struct Question(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Wanted,
    Unwanted,
    /// There was none in time, which is taken for yes.
    Missing,
}

impl Question {
    /// The upstream says 100.
    pub(super) fn is_wanted(&self) {
        self.answer(Answer::Wanted);
    }

    /// The response has come, which is an answer too if there was none before. Whether the body is not to be sent.
    ///
    /// Success may be one that goes on with what the body says. Anything else has been decided without it.
    pub(super) fn is_refused_by(&self, status: StatusCode) -> bool {
        let answer = if status.is_success() { Answer::Wanted } else { Answer::Unwanted };
        self.answer(answer) == Answer::Unwanted
    }

    /// Whether the upstream let it pass.
    pub(super) fn was_ignored(&self) -> bool {
        self.0.borrow().answer == Some(Answer::Missing)
    }

    /// The first answer holds.
    fn answer(&self, answer: Answer) -> Answer {
        let mut state = self.0.borrow_mut();
        let (first, waiting) = (*state.answer.get_or_insert(answer), state.waiting.take());
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        first
    }
}

/// Holds a body back until the question is answered.
pub(super) struct Hold {
    question: Question,
    limit: Duration,
    timer: LazyTimer,
    /// Set once the request's head is on its way.
    deadline: Option<Instant>,
}

impl Hold {
    pub(super) fn new(limit: Duration) -> Self {
        Self { question: Question::default(), limit, timer: LazyTimer::new(limit), deadline: None }
    }

    pub(super) fn question(&self) -> Question {
        self.question.clone()
    }

    /// Ready when the body may be sent, which is never if it is unwanted: its connection then ends with the response.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.question.0.borrow_mut();
        match state.answer {
            Some(Answer::Unwanted) => return Poll::Pending,
            Some(Answer::Wanted | Answer::Missing) => return Poll::Ready(()),
            None => state.waiting = Some(cx.waker().clone()),
        }
        drop(state);
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
        ready!(self.timer.poll(cx, deadline));
        self.question.answer(Answer::Missing);
        Poll::Ready(())
    }
}
