//! What is remembered of a name between look-ups.
//!
//! | a look-up ends with | the last good answer |
//! |---|---|
//! | addresses | is replaced |
//! | addresses of one family, no answer for the other | keeps its addresses of the other family, for `stale` |
//! | addresses of some of a service's targets, no answer for others | keeps its addresses beside them, for `stale` |
//! | no answer, or SERVFAIL, REFUSED and the like | serves on, until `stale` after its expiry |
//! | "no such name", or no address of either family | serves on for `max_ttl` from when DNS first said so |
//!
//! The last one because a name server says so for a moment while a pod restarts; believed at once, it would turn a restart
//! that connections survive into errors. A pod that is really gone shows by refusing connections.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::resolver::{Found, Miss, Part};
use super::{Address, DnsError};
use crate::proxy::config::DnsConfig;
use crate::proxy::upstream::Upstream;

/// The last good answer for a name, or why there is none.
pub(super) struct Memory {
    min_ttl: Duration,
    max_ttl: Duration,
    stale: Duration,
    state: State,
    /// When the last good answer expires, or expired.
    expiry: Instant,
    /// Since when DNS says that the name has no address.
    absent_since: Option<Instant>,
    /// Since when a part gets no answer while the rest does.
    half_since: Option<Instant>,
    /// Whether DNS failed for the name the last time.
    is_failing: bool,
}

enum State {
    /// Not looked up yet.
    Unknown,
    Known(Rc<[Address]>),
    Missing(DnsError),
}

/// What a look-up changed.
pub(super) struct Settled {
    /// Addresses that are in the answer no more.
    pub(super) gone: Vec<SocketAddr>,
    /// How long until the next look-up.
    pub(super) pause: Duration,
    /// That DNS has begun to fail, or has failed for too long: something that the log should say.
    pub(super) failure: Option<Failure>,
}

/// Why DNS fails for a name, and what that means.
pub(super) struct Failure {
    pub(super) error: DnsError,
    /// Whether the last good answer serves on.
    pub(super) still_serves: bool,
}

impl Memory {
    /// A memory that knows nothing but the endpoint that an upstream written as an address is.
    pub(super) fn new(config: &DnsConfig, literal: Option<SocketAddr>) -> Self {
        Self {
            min_ttl: config.min_ttl,
            max_ttl: config.max_ttl,
            stale: config.stale,
            state: literal.map_or(State::Unknown, |endpoint| State::Known(Rc::new([endpoint.into()]))),
            expiry: Instant::now(),
            absent_since: None,
            half_since: None,
            is_failing: false,
        }
    }

    /// The answer that serves now; `None` before the first look-up has ended.
    pub(super) fn answer(&self) -> Option<Result<Rc<[Address]>, DnsError>> {
        match &self.state {
            State::Unknown => None,
            State::Known(endpoints) => Some(Ok(Rc::clone(endpoints))),
            State::Missing(error) => Some(Err(error.clone())),
        }
    }

    /// Whether nothing serves, since DNS has nothing or has failed for too long.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.state, State::Missing(_))
    }

    /// Takes an answer that came at `at`, before this memory was, unless it is too old to serve.
    pub(super) fn begin_with(&mut self, found: Found, at: Instant, now: Instant) {
        let expiry = at + self.lifetime(&found);
        if now < expiry + self.stale {
            self.expiry = expiry;
            self.state = State::Known(in_order(found.endpoints));
        }
    }

    /// Takes what a look-up of `upstream` ended with.
    pub(super) fn settle(
        &mut self,
        upstream: &Upstream,
        now: Instant,
        outcome: Result<Found, Miss>,
    ) -> Settled {
        match outcome {
            Ok(found) => self.settle_found(now, found),
            Err(miss) => self.settle_miss(upstream, now, miss),
        }
    }

    fn settle_found(&mut self, now: Instant, found: Found) -> Settled {
        let lifetime = self.lifetime(&found);
        let Found { mut endpoints, unanswered, .. } = found;
        self.expiry = now + lifetime;
        self.absent_since = None;
        self.half_since = unanswered.map(|_| self.half_since.unwrap_or(now));
        let before = self.endpoints();
        if let (Some(part), Some(since)) = (unanswered, self.half_since)
            && now < since + self.stale
        {
            let answered = endpoints.iter().map(|endpoint| endpoint.socket).collect::<HashSet<_>>();
            let kept = |endpoint: &&Address| part.may_have(endpoint) && !answered.contains(&endpoint.socket);
            endpoints.extend(before.iter().filter(kept));
        }
        let endpoints = in_order(endpoints);

        self.is_failing = false;
        if before != endpoints {
            self.state = State::Known(endpoints);
        }
        // With a quarter of its lifetime left an answer is looked up again, so that there is time for a second try.
        Settled { gone: self.gone(&before), pause: lifetime * 3 / 4, failure: None }
    }

    fn settle_miss(&mut self, upstream: &Upstream, now: Instant, miss: Miss) -> Settled {
        let name = upstream.name.trim_end_matches('.').to_owned();
        let (error, serves_until) = match miss {
            Miss::Failed(reason) => {
                self.absent_since = None;
                (DnsError::Failed { name, reason }, self.expiry + self.stale)
            }
            Miss::Absent => {
                let since = *self.absent_since.get_or_insert(now);
                (DnsError::Absent { name }, since + self.max_ttl.min(self.stale))
            }
        };
        let before = self.endpoints();
        let still_serves = !before.is_empty() && now < serves_until;
        let is_news = !self.is_failing || (!before.is_empty() && !still_serves);
        let failure = is_news.then(|| Failure { error: error.clone(), still_serves });
        self.is_failing = true;
        if !still_serves {
            self.state = State::Missing(error);
        }
        Settled { gone: self.gone(&before), pause: self.min_ttl, failure }
    }

    /// How long an answer is good for.
    fn lifetime(&self, found: &Found) -> Duration {
        found.ttl.clamp(self.min_ttl, self.max_ttl)
    }

    fn endpoints(&self) -> Rc<[Address]> {
        match &self.state {
            State::Known(endpoints) => Rc::clone(endpoints),
            State::Unknown | State::Missing(_) => Rc::new([]),
        }
    }

    /// What of `before` is in the answer no more.
    fn gone(&self, before: &[Address]) -> Vec<SocketAddr> {
        let now = self.endpoints();
        let before = before.iter().map(|endpoint| endpoint.socket);
        before.filter(|endpoint| now.iter().all(|address| address.socket != *endpoint)).collect()
    }
}

/// Endpoints in an order that look-ups don't change, each once: servers shuffle them, and repeat some.
fn in_order(mut endpoints: Vec<Address>) -> Rc<[Address]> {
    endpoints.sort_unstable_by_key(|endpoint| (endpoint.socket, endpoint.priority));
    endpoints.dedup_by_key(|endpoint| endpoint.socket);
    endpoints.sort_by_key(|endpoint| endpoint.priority);
    endpoints.into()
}

impl Part {
    fn may_have(self, endpoint: &Address) -> bool {
        match self {
            Self::V4 => endpoint.socket.is_ipv4(),
            Self::V6 => endpoint.socket.is_ipv6(),
            Self::Target => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Name {
        memory: Memory,
        upstream: Upstream,
        start: Instant,
    }

    impl Name {
        fn new() -> Self {
            let config = DnsConfig {
                servers: Vec::new(),
                search: None,
                min_ttl: SECOND,
                max_ttl: SECOND * 10,
                stale: SECOND * 300,
                timeout: SECOND * 2,
                attempts: 2,
            };
            Self {
                memory: Memory::new(&config, None),
                upstream: Upstream::parse("web:80", None).unwrap(),
                start: Instant::now(),
            }
        }

        fn settle(&mut self, at: u32, outcome: Result<Found, Miss>) -> Settled {
            self.memory.settle(&self.upstream, self.start + SECOND * at, outcome)
        }

        fn serves(&self) -> Vec<String> {
            match self.memory.answer() {
                Some(Ok(endpoints)) => endpoints.iter().map(ToString::to_string).collect(),
                Some(Err(error)) => vec![error.to_string()],
                None => Vec::new(),
            }
        }
    }

    fn found(endpoints: &[&str], ttl: u64) -> Result<Found, Miss> {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().map(SocketAddr::into));
        let endpoints = endpoints.collect::<Result<_, _>>();
        endpoints
            .map(|endpoints| Found { endpoints, ttl: Duration::from_secs(ttl), unanswered: None })
            .map_err(|error| Miss::Failed(error.to_string()))
    }

    fn half(endpoints: &[&str], ttl: u64, part: Part) -> Result<Found, Miss> {
        found(endpoints, ttl).map(|found| Found { unanswered: Some(part), ..found })
    }

    fn failed() -> Result<Found, Miss> {
        Err(Miss::Failed("request timed out".to_owned()))
    }

    #[test]
    fn the_ttl_is_kept_within_its_bounds() {
        let mut name = Name::new();
        for (ttl, pause) in [(86_400, 7_500), (0, 750), (4, 3_000)] {
            assert_eq!(
                name.settle(0, found(&["10.0.0.1:80"], ttl)).pause,
                Duration::from_millis(pause),
                "TTL {ttl}"
            );
        }
    }

    #[test]
    fn answers_are_in_a_stable_order_without_duplicates() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"], 5));
        assert_eq!(name.serves(), ["10.0.0.1:80", "10.0.0.2:80"]);
    }

    #[test]
    fn what_left_the_answer_is_told() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80", "10.0.0.2:80"], 5));
        let settled = name.settle(4, found(&["10.0.0.2:80", "10.0.0.3:80"], 5));
        assert_eq!(settled.gone, ["10.0.0.1:80".parse().unwrap()]);
        assert!(name.settle(8, found(&["10.0.0.3:80", "10.0.0.2:80"], 5)).gone.is_empty());
    }

    #[test]
    fn while_dns_fails_the_last_answer_serves_for_stale() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80"], 5));
        assert!(name.settle(304, failed()).gone.is_empty());
        assert_eq!(name.serves(), ["10.0.0.1:80"]);
        assert_eq!(name.settle(306, failed()).gone, ["10.0.0.1:80".parse().unwrap()]);
        assert!(name.serves()[0].contains("request timed out"), "{:?}", name.serves());
        name.settle(310, found(&["10.0.0.1:80"], 5));
        assert_eq!(name.serves(), ["10.0.0.1:80"]);
    }

    #[test]
    fn a_name_that_is_gone_serves_for_the_longest_ttl() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80"], 5));
        name.settle(4, Err(Miss::Absent));
        name.settle(13, Err(Miss::Absent));
        assert_eq!(name.serves(), ["10.0.0.1:80"]);
        name.settle(14, Err(Miss::Absent));
        assert!(name.serves()[0].contains("no address for web;"), "{:?}", name.serves());
    }

    #[test]
    fn an_answer_in_between_starts_the_wait_anew() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80"], 5));
        name.settle(4, Err(Miss::Absent));
        name.settle(12, found(&["10.0.0.1:80"], 5));
        name.settle(16, Err(Miss::Absent));
        name.settle(25, Err(Miss::Absent));
        assert_eq!(name.serves(), ["10.0.0.1:80"]);
    }

    #[test]
    fn a_family_without_answer_keeps_its_addresses_for_stale() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80", "[fd00::1]:80"], 5));
        name.settle(4, half(&["10.0.0.2:80"], 5, Part::V6));
        assert_eq!(name.serves(), ["10.0.0.2:80", "[fd00::1]:80"]);
        name.settle(303, half(&["10.0.0.2:80"], 5, Part::V6));
        assert_eq!(name.serves(), ["10.0.0.2:80", "[fd00::1]:80"]);
        name.settle(304, half(&["10.0.0.2:80"], 5, Part::V6));
        assert_eq!(name.serves(), ["10.0.0.2:80"]);
    }

    #[test]
    fn a_target_without_answer_keeps_its_addresses_for_stale() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80", "10.0.0.2:80"], 5));
        assert!(name.settle(4, half(&["10.0.0.2:80"], 5, Part::Target)).gone.is_empty());
        assert_eq!(name.serves(), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(name.settle(304, half(&["10.0.0.2:80"], 5, Part::Target)).gone.len(), 1);
        assert_eq!(name.serves(), ["10.0.0.2:80"]);
    }

    #[test]
    fn a_family_that_answers_with_nothing_has_nothing() {
        let mut name = Name::new();
        name.settle(0, found(&["10.0.0.1:80", "[fd00::1]:80"], 5));
        name.settle(4, found(&["10.0.0.1:80"], 5));
        assert_eq!(name.serves(), ["10.0.0.1:80"]);
    }

    #[test]
    fn a_name_never_seen_is_missing_at_once() {
        let mut name = Name::new();
        assert_eq!(name.settle(0, Err(Miss::Absent)).pause, SECOND);
        assert!(name.serves()[0].contains("no address for web;"), "{:?}", name.serves());
    }
}
