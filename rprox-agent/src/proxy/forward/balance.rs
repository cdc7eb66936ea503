//! Which endpoint of an upstream is next.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::upstream::Upstream;

/// How long an endpoint that could not be connected to is tried last: this after the first time, doubling up to the second.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(16);

/// How long a failing endpoint may just be on the move, and requests had better wait for it.
const MOVING: Duration = Duration::from_secs(2);

/// Round robin over the endpoints that work, then over those that failed lately.
#[derive(Debug, Default)]
pub struct Balance {
    turns: RefCell<HashMap<Arc<Upstream>, usize>>,
    failing: RefCell<HashMap<SocketAddr, Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    until: Instant,
    back_off: Duration,
}

impl Balance {
    /// The next of `endpoints` that is not among `tried`.
    #[must_use]
    pub fn next(
        &self,
        upstream: &Arc<Upstream>,
        endpoints: &[SocketAddr],
        tried: &[SocketAddr],
    ) -> Option<SocketAddr> {
        if let ([only], []) = (endpoints, tried) {
            return Some(*only);
        }
        let turn = self.turn(upstream);
        let count = endpoints.len();
        let mut last_resort = None;
        for endpoint in (0..count).map(|step| endpoints[(turn + step) % count]) {
            if tried.contains(&endpoint) {
                continue;
            }
            if !self.backs_off(endpoint) {
                return Some(endpoint);
            }
            last_resort = last_resort.or(Some(endpoint));
        }
        last_resort
    }

    fn turn(&self, upstream: &Arc<Upstream>) -> usize {
        let mut turns = self.turns.borrow_mut();
        if let Some(turn) = turns.get_mut(upstream) {
            *turn = turn.wrapping_add(1);
            return *turn;
        }
        turns.insert(Arc::clone(upstream), 0);
        0
    }

    fn backs_off(&self, endpoint: SocketAddr) -> bool {
        let failing = self.failing.borrow();
        !failing.is_empty() && failing.get(&endpoint).is_some_and(|failing| Instant::now() < failing.until)
    }

    /// Connecting to `endpoint` failed.
    pub fn failed(&self, endpoint: SocketAddr) {
        let now = Instant::now();
        let mut failing = self.failing.borrow_mut();
        // What was not tried again since may long be well, or another pod: its next failure is a new one.
        failing.retain(|_, failing| now < failing.until + MOVING);
        let entry =
            failing.entry(endpoint).or_insert(Failing { since: now, until: now, back_off: FIRST_BACK_OFF });
        if now >= entry.until {
            entry.until = now + entry.back_off;
            entry.back_off = (entry.back_off * 2).min(LONGEST_BACK_OFF);
        }
    }

    /// Connecting to `endpoint` succeeded.
    pub fn works(&self, endpoint: SocketAddr) {
        self.failing.borrow_mut().remove(&endpoint);
    }

    /// Whether the trouble with these endpoints is so new that they may just be moving.
    #[must_use]
    pub fn may_be_moving(&self, endpoints: &[SocketAddr]) -> bool {
        let failing = self.failing.borrow();
        endpoints
            .iter()
            .any(|endpoint| failing.get(endpoint).is_none_or(|failing| failing.since.elapsed() < MOVING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream::Protocol;

    fn upstream() -> Arc<Upstream> {
        Arc::new(Upstream {
            name: "a.".to_owned(),
            port: Some(80),
            protocol: Protocol::Http1,
            authority: "a:80".to_owned(),
        })
    }

    fn endpoints() -> [SocketAddr; 3] {
        ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::3]:80"].map(|text| text.parse().unwrap())
    }

    #[test]
    fn each_endpoint_has_its_turn() {
        let (balance, upstream, endpoints) = (Balance::default(), upstream(), endpoints());
        let seen: Vec<_> = (0..6).map(|_| balance.next(&upstream, &endpoints, &[]).unwrap()).collect();
        assert_eq!(seen[..3], endpoints);
        assert_eq!(seen[3..], endpoints);
    }

    #[test]
    fn a_failed_endpoint_is_tried_last_and_no_endpoint_twice() {
        let (balance, upstream, endpoints) = (Balance::default(), upstream(), endpoints());
        balance.failed(endpoints[0]);
        for _ in 0..6 {
            let mut tried = Vec::new();
            while let Some(endpoint) = balance.next(&upstream, &endpoints, &tried) {
                tried.push(endpoint);
            }
            assert_eq!(tried.len(), 3);
            assert_eq!(tried[2], endpoints[0]);
        }
        balance.works(endpoints[0]);
        assert!((0..3).any(|_| balance.next(&upstream, &endpoints, &[]) == Some(endpoints[0])));
    }
}
