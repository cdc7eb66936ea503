//! Places of which there are so many.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

/// One of those that are taken, until it is dropped.
pub(super) struct Place(Rc<Cell<usize>>);

impl Place {
    /// One more, if there are fewer than `limit`.
    pub(super) fn take(taken: &Rc<Cell<usize>>, limit: usize) -> Option<Self> {
        (taken.get() < limit).then(|| Self::add(taken))
    }

    /// One more, however many there are.
    pub(super) fn add(taken: &Rc<Cell<usize>>) -> Self {
        taken.set(taken.get() + 1);
        Self(Rc::clone(taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
