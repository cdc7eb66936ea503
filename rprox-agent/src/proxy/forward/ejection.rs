//! Whether an endpoint is left out, and until when.
//!
//! It is left out when it can't be connected to, and when it has failed several requests in a row without a word of HTTP:
//! reset them, closed on them, or let them time out. A response, whatever its status, is a word of HTTP: 500 may well be the
//! right answer to a request, and what it says of the endpoint is for a health check to find out. It stays out for a time that
//! doubles with each failure, with some chance in it, so that workers and agents don't come back all at once.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::config::PassiveHealth;

/// How long a failing endpoint may just be on the move, and requests had better wait for it.
pub(super) const MOVING: Duration = Duration::from_secs(2);

/// The health of an endpoint as its requests show it.
#[derive(Debug, Default)]
pub struct Ejection {
    out: Cell<Option<Out>>,
    /// Requests without a response in a row.
    broken: Cell<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    since: Instant,
    until: Instant,
    back_off: Duration,
    /// What failed: connecting, or else requests.
    connecting: bool,
    /// Whether somebody is finding out if it is well again.
    probing: bool,
}

/// What is to be done with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Use it.
    In,
    /// Leave it out.
    Out,
    /// Its time is over: see whether a connection comes about, beside the requests.
    ProbeConnection,
    /// Its time is over: let one request try it.
    ProbeRequest,
}

impl Ejection {
    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.out.get() {
            None => Standing::In,
            Some(out) if out.probing || Instant::now() < out.until => Standing::Out,
            Some(Out { connecting: true, .. }) => Standing::ProbeConnection,
            Some(_) => Standing::ProbeRequest,
        }
    }

    /// Whether it is left out, be its time over or not.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.out.get().is_some()
    }

    /// Until when; of several that are out, the one to come back first is the best there is.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.out.get().map(|out| out.until)
    }

    /// Whether the trouble is so new that the endpoint may just be moving.
    #[must_use]
    pub fn may_be_moving(&self) -> bool {
        self.out.get().is_none_or(|out| out.since.elapsed() < MOVING)
    }

    /// Somebody finds out if it is well again, or has given that up.
    pub fn probe(&self, probing: bool) {
        self.out.set(self.out.get().map(|out| Out { probing, ..out }));
    }

    /// Connecting failed. Returns whether that put it out.
    pub fn connect_failed(&self, rules: &PassiveHealth) -> bool {
        self.put_out(rules, true)
    }

    /// Connecting succeeded. That says nothing of an endpoint that takes connections and breaks them.
    pub fn connected(&self) {
        if self.out.get().is_some_and(|out| out.connecting) {
            self.out.set(None);
        }
    }

    /// A request got no response, for no fault of its own. Returns whether that put the endpoint out.
    pub fn broke(&self, rules: &PassiveHealth) -> bool {
        let broken = self.broken.get().saturating_add(1);
        self.broken.set(broken);
        broken >= rules.failures && self.put_out(rules, false)
    }

    /// A response came.
    pub fn answered(&self) {
        if self.broken.get() > 0 || self.is_out() {
            self.broken.set(0);
            self.out.set(None);
        }
    }

    fn put_out(&self, rules: &PassiveHealth, connecting: bool) -> bool {
        let now = Instant::now();
        // What was not tried for long may have been well since: its next failure is a new one.
        let before = self.out.get().filter(|out| out.probing || now < out.until + MOVING);
        let (since, back_off) = match before {
            // One of many requests that were under way when the first failed.
            Some(out) if now < out.until && !out.probing => return false,
            Some(out) => (out.since, (out.back_off * 2).min(rules.longest_back_off)),
            None => (now, rules.back_off),
        };
        let jitter = 0.75 + fastrand::f64() / 2.0;
        self.out.set(Some(Out {
            since,
            until: now + back_off.mul_f64(jitter),
            back_off,
            connecting,
            probing: false,
        }));
        before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> PassiveHealth {
        PassiveHealth {
            failures: 3,
            back_off: Duration::from_secs(1),
            longest_back_off: Duration::from_secs(4),
        }
    }

    fn left(ejection: &Ejection) -> Duration {
        ejection.until().unwrap() - Instant::now()
    }

    #[test]
    fn a_connection_that_fails_puts_it_out_and_one_that_succeeds_takes_it_back() {
        let ejection = Ejection::default();
        assert!(ejection.connect_failed(&rules()));
        assert_eq!(ejection.standing(), Standing::Out);
        assert!(!ejection.connect_failed(&rules()), "others that failed with it don't count again");
        ejection.connected();
        assert_eq!(ejection.standing(), Standing::In);
    }

    #[test]
    fn requests_put_it_out_only_in_a_row() {
        let ejection = Ejection::default();
        for _ in 0..5 {
            ejection.broke(&rules());
            ejection.broke(&rules());
            ejection.answered();
        }
        assert_eq!(ejection.standing(), Standing::In);
        ejection.broke(&rules());
        ejection.broke(&rules());
        assert!(ejection.broke(&rules()));
        ejection.connected();
        assert_eq!(ejection.standing(), Standing::Out, "that it takes connections was never the question");
        ejection.answered();
        assert_eq!(ejection.standing(), Standing::In);
    }

    #[test]
    fn a_probe_that_fails_doubles_the_time_up_to_the_longest() {
        let ejection = Ejection::default();
        ejection.connect_failed(&rules());
        for longest in [1.25, 2.5, 5.0, 5.0] {
            let (shortest, left) = (longest * 0.59, left(&ejection).as_secs_f64());
            assert!((shortest..=longest).contains(&left), "{left} of {shortest} to {longest}");
            ejection.probe(true);
            assert_eq!(ejection.standing(), Standing::Out, "one probe at a time");
            ejection.connect_failed(&rules());
        }
    }
}
