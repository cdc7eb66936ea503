//! A connection to an endpoint for one client's bytes, whatever they are.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use super::choice::{Choice, Connection};
use super::dial::Dial;
use super::endpoint::{Endpoint, Use};
use super::failure::Failure;
use super::place::Place;
use super::send::Lost;
use crate::proxy::live::Live;
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::route::Match;
use crate::proxy::socket::lazy_tcp::LazyTcp;
use crate::proxy::worker::Worker;

/// A connection that is one client's from beginning to end.
pub struct Wire {
    /// The connection, on which nothing was sent but a PROXY header where the route wants one.
    pub tcp: LazyTcp,
    used: Use,
    _place: Place,
}

/// Connects to an endpoint of the route that was `found`, for the client's connection that has these `ends`. One that can't be
/// connected to is passed over for the next.
///
/// # Errors
///
/// When no endpoint took the connection.
pub async fn open(worker: &Worker, live: &Rc<Live>, found: &Match<'_>, ends: Ends) -> Result<Wire, Lost> {
    let group = live.groups.of(found.upstreams);
    group.budget.deposit(&live.config.retries);
    Choice::<Wire>::new(worker, live, ends, group, false, None).await?.connect().await
}

impl Wire {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        self.used.endpoint()
    }
}

impl Connection for Wire {
    /// There is none: each is a client's own.
    fn idle(used: Use, _: Duration, _: bool) -> Result<Self, Use> {
        Err(used)
    }

    async fn make(used: Use, dial: &Dial<'_>) -> Result<Self, (Failure, Use)> {
        let endpoint = used.endpoint();
        let Some(place) = Place::take(&endpoint.open, dial.config.limits.upstream_connections) else {
            return Err((Failure::Busy, used));
        };
        match dial.wire(&endpoint.way).await {
            Ok(tcp) => {
                endpoint.counts.connects.increment();
                Ok(Self { tcp, used, _place: place })
            }
            Err(failure) => Err((endpoint.not_connected(failure), used)),
        }
    }

    fn endpoint(&self) -> &Rc<Endpoint> {
        self.endpoint()
    }

    fn is_reused(&self) -> bool {
        false
    }

    fn keep(self) {}
}
