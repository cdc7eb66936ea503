//! An endpoint's connections: one, and others while those that there are have as many streams as the endpoint takes.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Http2;
use super::connection::Connection;
use crate::proxy::forward::place::Place;
use crate::proxy::timer::timeout;

/// The connections to an endpoint.
pub struct Connections {
    /// The first with a stream left is taken, so that the last come to be unused.
    open: RefCell<Vec<Open>>,
    /// Requests for which there is no stream, whether they wait or make a connection.
    wanting: Rc<Cell<usize>>,
    /// Connections that are made, each until the endpoint has said how many streams it takes.
    coming: Rc<Cell<usize>>,
    /// How many requests such a connection is for, as far as is known.
    each: Cell<usize>,
    /// Told when one of them has got as far as that, or no further, and when one is made.
    came: Notify,
}

struct Open {
    connection: Rc<Connection>,
    place: Rc<Place>,
    /// When a stream was last asked for, or was there.
    used: Instant,
}

/// A stream of a connection that others use, too.
pub struct Shared {
    /// The stream.
    pub link: Box<Http2>,
    /// The connection's place.
    pub(in crate::proxy::forward) place: Rc<Place>,
}

/// A connection that is coming.
pub struct Coming {
    connections: Rc<Connections>,
    /// Among those that want a stream, and among those that are coming.
    _places: [Place; 2],
}

impl Drop for Coming {
    fn drop(&mut self) {
        // They look when this is gone.
        self.connections.came.notify_waiters();
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            wanting: Rc::default(),
            coming: Rc::default(),
            each: Cell::new(usize::MAX),
            came: Notify::new(),
        }
    }
}

impl Connections {
    /// A stream, if there is one.
    pub fn share(&self) -> Option<Shared> {
        let open = &mut *self.open.borrow_mut();
        loop {
            let index = open.iter().position(|open| open.connection.has_room())?;
            let Open { connection, place, used } = &mut open[index];
            if connection.is_closed() {
                open.remove(index);
                continue;
            }
            *used = Instant::now();
            return Some(Shared { link: Box::new(Http2::on(connection)), place: Rc::clone(place) });
        }
    }

    /// A stream, when there is one or a connection that is coming brings it; `Err`: it takes another connection. While that is waited for,
    /// `reached` tells whether somebody is there, who has only not spoken yet.
    pub(in crate::proxy::forward) async fn find(&self, reached: &Cell<bool>) -> Result<Shared, Place> {
        let wanting = Place::add(&self.wanting);
        // The endpoint may take more by now.
        self.open.borrow().iter().for_each(|open| open.connection.learn());
        loop {
            if let Some(shared) = self.share() {
                return Ok(shared);
            }
            let are_enough = self.coming.get().saturating_mul(self.each.get()) >= self.wanting.get();
            reached.set(are_enough && self.open.borrow().iter().any(|open| !open.connection.has_spoken()));
            if !are_enough {
                return Err(wanting);
            }
            self.came.notified().await;
        }
    }

    /// Whoever was `wanting` a stream makes a connection.
    pub(in crate::proxy::forward) fn come(self: &Rc<Self>, wanting: Place) -> Coming {
        Coming { connections: Rc::clone(self), _places: [wanting, Place::add(&self.coming)] }
    }

    /// The endpoint speaks HTTP/1.1, where requests share no connection.
    pub fn share_none(&self) {
        self.each.set(1);
    }

    /// Takes in a connection that was made. The endpoint has up to `limit` to say how many streams it takes.
    pub(in crate::proxy::forward) fn add(
        self: &Rc<Self>,
        link: &Http2,
        place: &Rc<Place>,
        coming: Option<Coming>,
        limit: Duration,
    ) {
        let (this, connection) = (Rc::clone(self), Rc::clone(&link.connection));
        let open = Open { connection: Rc::clone(&connection), place: Rc::clone(place), used: Instant::now() };
        self.open.borrow_mut().push(open);
        self.came.notify_waiters();
        tokio::task::spawn_local(async move {
            timeout(limit, connection.speaks()).await;
            connection.learn();
            // One that ended or is silent has told nothing, and others would be no better.
            if connection.has_spoken() && !connection.is_closed() {
                this.each.set(connection.most());
            }
            drop(coming);
        });
    }

    /// Lets go those that have ended, or had no stream for `limit`.
    pub fn sweep(&self, limit: Duration) {
        self.open.borrow_mut().retain_mut(|Open { connection, used, .. }| {
            if connection.is_used() {
                *used = Instant::now();
            }
            !connection.is_closed() && used.elapsed() < limit
        });
    }

    /// Lets all go: each ends with its last stream.
    pub fn forget(&self) {
        self.open.borrow_mut().clear();
    }
}
