//! The way through the endpoints of a route until one takes a connection.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::balance::{Member, Members};
use super::dial::Dial;
use super::ejection::Standing;
use super::endpoint::{Endpoint, Use};
use super::failure::Failure;
use super::group::Group;
use super::send::Lost;
use crate::proxy::live::Live;
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::timer::sleep;
use crate::proxy::worker::Worker;

/// When no endpoint can be connected to, DNS is asked again after these pauses while they may just be moving: a pod that
/// restarts is gone for a moment, and its new address takes another to be known.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// How a connection to an endpoint is had, which depends on what it is for.
pub(super) trait Connection: Sized {
    /// One that waits to be used, no longer than `limit` so far; else `used` comes back.
    fn idle(used: Use, limit: Duration, only_http1: bool) -> Result<Self, Use>;

    /// One that is made.
    async fn make(used: Use, dial: &Dial<'_>) -> Result<Self, (Failure, Use)>;

    /// The endpoint.
    fn endpoint(&self) -> &Rc<Endpoint>;

    /// Whether somebody else made it, so that it says nothing of whether one can be made.
    fn is_reused(&self) -> bool;

    /// Keeps one that was not used, if such can be kept.
    fn keep(self);
}

/// The endpoints of a route and what has come of them.
pub(super) struct Choice<'a, C> {
    worker: &'a Worker,
    live: &'a Rc<Live>,
    group: Rc<Group>,
    members: Rc<Members>,
    only_http1: bool,
    /// Whom a cookie asks for.
    marked: Option<u64>,
    /// The PROXY header that connections begin with.
    preface: Option<Rc<[u8]>>,
    tried: Vec<SocketAddr>,
    /// What came of the last one tried.
    lost: Option<Lost>,
    rounds: usize,
    start: Option<Instant>,
    found: PhantomData<C>,
}

/// An attempt to connect that is under way.
struct Attempt {
    endpoint: Rc<Endpoint>,
    reached: Rc<Cell<bool>>,
}

impl<'a, C: Connection + 'static> Choice<'a, C> {
    /// The endpoints of `group`, each to be had.
    pub(super) async fn new(
        worker: &'a Worker,
        live: &'a Rc<Live>,
        ends: Ends,
        group: Rc<Group>,
        only_http1: bool,
        marked: Option<u64>,
    ) -> Result<Self, Lost> {
        let preface = group.set.proxy_protocol.map(|version| version.header(ends).into());
        let members = group.members(&live.names, &worker.pool).await;
        let members = members.map_err(|error| Lost { failure: Failure::Dns(error), endpoint: None })?;
        let (tried, lost, rounds, start) = (Vec::new(), None, 0, None);
        let found = PhantomData;
        Ok(Self {
            worker,
            live,
            group,
            members,
            only_http1,
            marked,
            preface,
            tried,
            lost,
            rounds,
            start,
            found,
        })
    }

    /// A connection to the next endpoint that takes one.
    pub(super) async fn connect(&mut self) -> Result<C, Lost> {
        let limit = self.live.config.timeouts.upstream_idle;
        loop {
            let Some(used) = self.marked().or_else(|| self.next(|_| true)) else {
                Box::pin(self.look_again()).await?;
                continue;
            };
            let idle = if self.preface.is_some() { Err(used) } else { C::idle(used, limit, self.only_http1) };
            match idle {
                Ok(lease) => return Ok(lease),
                // Rare, and large: it should not make every request's future large.
                Err(used) => {
                    if let Some(lease) = Box::pin(self.race(used)).await {
                        return Ok(lease);
                    }
                }
            }
        }
    }

    /// The request may have come to `endpoint`, which did not answer: any other is better.
    pub(super) fn avoid(&mut self, endpoint: &Endpoint) {
        if self.members.only().is_none() {
            self.tried.push(endpoint.way.address);
            if self.members.all().iter().all(|member| self.is_tried(member)) {
                self.tried.clear();
            }
        }
    }

    /// The one that the cookie asks for, the first time and if it is well.
    fn marked(&mut self) -> Option<Use> {
        let member = self.members.marked(self.marked.take()?)?;
        (member.is_healthy() && self.is_well(&member.endpoint)).then(|| Use::of(&member.endpoint))
    }

    /// What a cookie calls `endpoint`.
    pub(super) fn mark_of(&self, endpoint: &Rc<Endpoint>) -> Option<u64> {
        let member = self.members.all().iter().find(|member| Rc::ptr_eq(&member.endpoint, endpoint))?;
        Some(member.mark)
    }

    fn is_tried(&self, member: &Member) -> bool {
        self.tried.contains(&member.endpoint.way.address)
    }

    /// The next endpoint that was not tried and that is `wanted`: one that is well, or else the best that there is.
    fn next(&self, wanted: impl Fn(&Member) -> bool) -> Option<Use> {
        if let (Some(only), true) = (self.members.only(), self.tried.is_empty()) {
            return (only.weight > 0 && wanted(only)).then(|| Use::of(&only.endpoint));
        }
        let possible = |member: &Member| !self.is_tried(member) && wanted(member);
        let usable =
            |member: &Member| possible(member) && member.is_healthy() && self.is_well(&member.endpoint);
        let chosen = self.members.choose(self.group.set.balance, usable);
        let chosen = chosen.or_else(|| {
            // When all are out it is not for long, or not their fault: better to try one than none. But not one after the
            // other, for each request.
            let first = self.tried.is_empty();
            let best = self.members.best(possible)?;
            let affordable =
                first || self.group.budget.withdraw(&self.live.config.retries, &self.worker.metrics);
            affordable.then_some(best)
        });
        chosen.map(|member| Use::of(&member.endpoint))
    }

    fn is_well(&self, endpoint: &Rc<Endpoint>) -> bool {
        match endpoint.ejection.standing() {
            Standing::In | Standing::ProbeRequest => true,
            Standing::Out => false,
            Standing::ProbeConnection => {
                let (set, live) = (&self.group.set, Rc::clone(self.live));
                let preface = set.proxy_protocol.map(|version| version.own_header().into());
                tokio::task::spawn_local(probe::<C>(Use::of(endpoint), live, set.timeouts.connect, preface));
                false
            }
        }
    }

    /// Connects to an endpoint, and where that takes long beside it to another, preferably of the other family (RFC 8305
    /// section 5). The first connection wins. `None`: every attempt failed, which [`Self::lost`] tells of.
    async fn race(&mut self, first: Use) -> Option<C> {
        let delay = self.live.config.timeouts.attempt_delay;
        let mut attempts = FuturesUnordered::new();
        let mut running: Vec<Attempt> = Vec::new();
        let mut next = Some(first);
        loop {
            if let Some(used) = next.take() {
                let reached = Rc::new(Cell::new(false));
                running.push(Attempt { endpoint: Rc::clone(used.endpoint()), reached: Rc::clone(&reached) });
                attempts.push(attempt::<C>(
                    used,
                    self.live,
                    self.group.set.timeouts.connect,
                    self.only_http1,
                    self.preface.clone(),
                    reached,
                ));
            }
            tokio::select! {
                biased;
                ended = attempts.next() => match ended? {
                    Ok(lease) => {
                        self.note_slow(&running, lease.endpoint());
                        return Some(lease);
                    }
                    Err((failure, used)) => {
                        running.retain(|attempt| !Rc::ptr_eq(&attempt.endpoint, used.endpoint()));
                        self.note_failure(failure, &used);
                        drop(used);
                        next = self.next(|member| !is_running(&running, member));
                    }
                },
                () = sleep(delay) => {
                    // Somebody is there; what takes long is TLS, and would with the next as well.
                    if !running.iter().any(|attempt| attempt.reached.get()) {
                        let stuck = running.last().map(|attempt| attempt.endpoint.way.address.is_ipv4());
                        let is_other = |member: &Member| Some(member.endpoint.way.address.is_ipv4()) != stuck;
                        next = self
                            .next(|member| !is_running(&running, member) && is_other(member))
                            .or_else(|| self.next(|member| !is_running(&running, member)));
                    }
                }
            }
        }
    }

    /// One endpoint has connected while others that were asked before it have not even answered. They are left out, and with
    /// them those of their family that nobody has a connection to: that one family leads nowhere is the usual reason.
    fn note_slow(&self, running: &[Attempt], winner: &Rc<Endpoint>) {
        let rules = &self.live.config.passive_health;
        let before = running.iter().take_while(|attempt| !Rc::ptr_eq(&attempt.endpoint, winner));
        for slow in before.filter(|attempt| !attempt.reached.get()) {
            let is_ipv4 = slow.endpoint.way.address.is_ipv4();
            let alike = |member: &&Member| {
                let endpoint = &member.endpoint;
                Rc::ptr_eq(endpoint, &slow.endpoint)
                    || (endpoint.way.address.is_ipv4() == is_ipv4 && !endpoint.is_connected())
            };
            let whole_family = is_ipv4 != winner.way.address.is_ipv4();
            for member in self.members.all().iter().filter(alike) {
                if whole_family || Rc::ptr_eq(&member.endpoint, &slow.endpoint) {
                    member.endpoint.connect_failed(rules);
                }
            }
        }
    }

    fn note_failure(&mut self, failure: Failure, used: &Use) {
        self.tried.push(used.address());
        if !matches!(failure, Failure::Busy) {
            self.start.get_or_insert_with(Instant::now);
            used.endpoint().connect_failed(&self.live.config.passive_health);
            tracing::debug!(endpoint = %used.address(), error = %failure, "trying another endpoint");
            let (group, live) = (Rc::clone(&self.group), Rc::clone(self.live));
            tokio::task::spawn_local(async move { group.refresh(&live.names).await });
        }
        self.lost = Some(Lost { failure, endpoint: Some(used.address()) });
    }

    /// All endpoints failed: perhaps there are others by now.
    async fn look_again(&mut self) -> Result<(), Lost> {
        let lost = self.lost.take().unwrap_or_else(|| {
            let serves = self.members.all().iter().any(|member| member.weight > 0);
            Lost { failure: if serves { Failure::Busy } else { Failure::Drained }, endpoint: None }
        });
        let Some(pause) = PAUSES.get(self.rounds) else { return Err(lost) };
        let moving = self.members.all().iter().any(|member| member.endpoint.ejection.may_be_moving());
        if matches!(lost.failure, Failure::Busy | Failure::Drained)
            || !self.group.has_names()
            || (self.rounds > 0 && !moving)
        {
            return Err(lost);
        }
        let patience = self.live.config.retries.moving;
        let waited = self.start.map_or(Duration::ZERO, |start| start.elapsed());
        if waited + *pause > patience {
            return Err(lost);
        }
        self.rounds += 1;
        sleep(*pause).await;
        self.group.refresh(&self.live.names).await;
        let Ok(members) = self.group.members(&self.live.names, &self.worker.pool).await else {
            return Err(lost);
        };
        self.members = members;
        if moving && self.start.is_some_and(|start| start.elapsed() < patience) {
            self.tried.clear();
        } else if self.members.all().iter().all(|member| self.is_tried(member)) {
            return Err(lost);
        }
        self.lost = Some(lost);
        Ok(())
    }
}

fn is_running(running: &[Attempt], member: &Member) -> bool {
    running.iter().any(|attempt| Rc::ptr_eq(&attempt.endpoint, &member.endpoint))
}

async fn attempt<C: Connection>(
    used: Use,
    live: &Live,
    limit: Duration,
    only_http1: bool,
    preface: Option<Rc<[u8]>>,
    reached: Rc<Cell<bool>>,
) -> Result<C, (Failure, Use)> {
    let rooms = Rc::clone(&used.endpoint().rooms);
    let preface = preface.as_deref();
    let dial = Dial { config: &live.config, limit, only_http1, preface, rooms: &rooms, reached: &reached };
    let lease = C::make(used, &dial).await?;
    if !lease.is_reused() {
        lease.endpoint().connected();
    }
    Ok(lease)
}

/// Finds out whether an endpoint that could not be connected to is well again. The connection is kept where it can be.
async fn probe<C: Connection>(used: Use, live: Rc<Live>, limit: Duration, preface: Option<Rc<[u8]>>) {
    let reached = Rc::default();
    match attempt::<C>(used, &live, limit, false, preface, reached).await {
        Ok(lease) => {
            tracing::debug!(endpoint = %lease.endpoint().way.address, "can be connected to again");
            lease.keep();
        }
        Err((failure, used)) => {
            used.endpoint().connect_failed(&live.config.passive_health);
            tracing::debug!(endpoint = %used.address(), error = %failure, "still can't be connected to");
        }
    }
}
