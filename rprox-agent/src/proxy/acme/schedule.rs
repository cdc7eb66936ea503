//! When to do what for which host.
//!
//! A certificate is renewed when two thirds of its life have passed, somewhat earlier by chance, so that many hosts don't come
//! at once; where the server suggests when (RFC 9773), then. After a failure the pause doubles, up to half a day; where the
//! server names a time, not before that.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use tokio::time::sleep;

use super::account::Suggestion;
use super::error::AcmeError;
use crate::proxy::config::{AcmeChallenge, AcmeConfig};
use crate::proxy::tls::Certificate;

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_hours(12);

/// The least pause after the server said that it is asked too often without saying for how long.
const RATE_LIMIT_PAUSE: Duration = Duration::from_hours(1);

/// How long until the server is asked again when to renew, at least and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_hours(1), Duration::from_hours(24));

/// How long after a certificate the next is ordered at the earliest: a tenth of its life, at most this. Else a clock that is far
/// ahead, or a server whose suggestions are always past, would have one ordered after the other.
const LONGEST_REST: Duration = Duration::from_hours(12);

/// The longest sleep: a clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_mins(10);

/// What is due.
pub(super) enum Task {
    /// To ask the server when to renew.
    LookUp,
    /// To order a certificate.
    Order(Plan),
}

/// How to order a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How the host is validated.
    pub(super) challenge: AcmeChallenge,
    /// Whether to say which certificate it takes the place of.
    pub(super) replaces: bool,
}

struct Host {
    name: String,
    /// When to order.
    due: SystemTime,
    /// When to order at the earliest.
    rested: SystemTime,
    /// When to ask the server about that, where it knows.
    ask: Option<SystemTime>,
    failures: u32,
    /// Which of the configuration's challenges is next.
    challenge: usize,
    server_suggests: bool,
}

/// The hosts, with what is due when.
pub(super) struct Schedule<'a> {
    config: &'a AcmeConfig,
    hosts: Vec<Host>,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(config: &'a AcmeConfig) -> Self {
        let mut schedule = Self { config, hosts: Vec::new() };
        for name in &config.hosts {
            schedule.hosts.push(Host {
                name: name.clone(),
                due: SystemTime::now(),
                rested: SystemTime::UNIX_EPOCH,
                ask: None,
                failures: 0,
                challenge: 0,
                server_suggests: false,
            });
            schedule.plan(name);
        }
        schedule
    }

    /// Waits for what is due first.
    pub(super) async fn next(&self) -> (String, Task) {
        loop {
            let first = self.hosts.iter().min_by_key(|host| host.next());
            let Some(host) = first else { return std::future::pending().await };
            match host.next().duration_since(SystemTime::now()) {
                Ok(wait) if !wait.is_zero() => sleep(wait.min(LONGEST_SLEEP)).await,
                _ => return (host.name.clone(), self.task(host)),
            }
        }
    }

    fn task(&self, host: &Host) -> Task {
        if host.ask.is_some_and(|ask| ask < host.due) {
            return Task::LookUp;
        }
        let challenges = &self.config.challenges;
        Task::Order(Plan {
            challenge: challenges[host.challenge % challenges.len()],
            // A server that refuses for the sake of the old one gets another chance without it.
            replaces: host.server_suggests && host.failures == 0,
        })
    }

    /// A certificate came. Returns how long to wait for the next where that is due at once.
    pub(super) fn done(&mut self, name: &str) -> Option<Duration> {
        self.host(name)?.failures = 0;
        let life = self.plan(name)?;
        let now = SystemTime::now();
        let rest = (life / 10).max(self.config.retry).min(LONGEST_REST);
        let host = self.host(name)?;
        host.rested = now + rest;
        let is_due = host.due <= now;
        host.due = host.due.max(host.rested);
        is_due.then_some(rest)
    }

    /// An order failed: how long to wait for the next.
    pub(super) fn failed(&mut self, name: &str, error: &AcmeError, least: Option<Duration>) -> Duration {
        let (first, challenges) = (self.config.retry, self.config.challenges.len());
        let Some(host) = self.host(name) else { return first };
        let validation = matches!(error, AcmeError::Invalid { .. } | AcmeError::NoChallenge);
        if validation {
            host.challenge = (host.challenge + 1) % challenges;
        }
        let pause = if validation && host.challenge != 0 {
            // There is another way, to be tried at once.
            Duration::ZERO
        } else {
            host.failures += 1;
            let doubled =
                first.saturating_mul(1 << host.failures.saturating_sub(1).min(20)).min(LONGEST_PAUSE);
            doubled.mul_f64(rand::rng().random_range(0.75..1.25))
        };
        let asked = if error.is_rate_limit() { RATE_LIMIT_PAUSE } else { Duration::ZERO };
        let pause = pause.max(least.unwrap_or(asked));
        host.due = SystemTime::now() + pause;
        host.ask = None;
        pause
    }

    /// The server said when to renew, or did not.
    pub(super) fn suggested(&mut self, name: &str, suggestion: Suggestion) {
        let Some(host) = self.host(name) else { return };
        host.ask = match suggestion {
            Suggestion::Between { start, end, ask_again } => {
                host.server_suggests = true;
                // Chosen by chance, and once: who asks often must not come out early.
                if !(start..=end).contains(&host.due) {
                    let length = end.duration_since(start).unwrap_or_default();
                    host.due = (start + length.mul_f64(rand::rng().random())).max(host.rested);
                }
                Some(SystemTime::now() + ask_again.clamp(ASK_AGAIN.0, ASK_AGAIN.1))
            }
            Suggestion::NotNow => Some(SystemTime::now() + ASK_AGAIN.0),
            Suggestion::Never => None,
        };
    }

    /// Plans by the certificate that is there, and returns how long that lives.
    fn plan(&mut self, name: &str) -> Option<Duration> {
        let certificate = Certificate::load(&self.config.files(name)).ok()?;
        let challenges = self.config.challenges.len();
        let host = self.host(name).filter(|_| certificate.names.covers(name))?;
        host.challenge %= challenges;
        host.due = renewal(&certificate);
        host.ask = Some(SystemTime::now()).filter(|now| *now < host.due);
        Some(life(&certificate))
    }

    fn host(&mut self, name: &str) -> Option<&mut Host> {
        self.hosts.iter_mut().find(|host| host.name == name)
    }
}

impl Host {
    fn next(&self) -> SystemTime {
        self.ask.map_or(self.due, |ask| ask.min(self.due))
    }
}

/// Two thirds into the certificate's life, or up to a twentieth of it earlier.
fn renewal(certificate: &Certificate) -> SystemTime {
    let share = 2.0 / 3.0 - rand::rng().random_range(0.0..0.05);
    certificate.not_before + life(certificate).mul_f64(share)
}

fn life(certificate: &Certificate) -> Duration {
    certificate.not_after.duration_since(certificate.not_before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::proxy::config::CertificateFiles;

    const HOUR: Duration = Duration::from_hours(1);

    fn config(hosts: &[&str]) -> AcmeConfig {
        AcmeConfig {
            directory: String::new(),
            contacts: Vec::new(),
            challenges: vec![AcmeChallenge::TlsAlpn01, AcmeChallenge::Http01],
            hosts: hosts.iter().map(ToString::to_string).collect(),
            state: PathBuf::from("/nonexistent"),
            ca: None,
            retry: Duration::from_mins(1),
            external_account: None,
        }
    }

    fn invalid() -> AcmeError {
        AcmeError::Invalid { challenge: "http-01", port: 80, reason: String::new() }
    }

    fn problem(kind: &str) -> AcmeError {
        let json = format!("{{\"type\": \"urn:ietf:params:acme:error:{kind}\"}}");
        instant_acme::Error::Api(serde_json::from_str(&json).unwrap()).into()
    }

    fn challenge(schedule: &Schedule<'_>) -> AcmeChallenge {
        match schedule.task(&schedule.hosts[0]) {
            Task::Order(plan) => plan.challenge,
            Task::LookUp => panic!("an order is due"),
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_or_somewhat_before() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let now = SystemTime::now();
        params.not_before = now.into();
        params.not_after = (now + HOUR * 300).into();
        let pem = format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let files = CertificateFiles { cert: PathBuf::new(), key: PathBuf::new() };
        let certificate = Certificate::parse(pem.as_bytes(), pem.as_bytes(), &files).unwrap();
        for _ in 0..100 {
            let hours = renewal(&certificate).duration_since(now).unwrap().as_secs() / 3600;
            assert!((184..=200).contains(&hours), "{hours}");
        }
    }

    #[test]
    fn a_certificate_that_comes_late_is_not_followed_by_another_at_once() {
        let state = tempfile::tempdir().unwrap();
        let config = AcmeConfig { state: state.path().to_owned(), ..config(&["a.example.com"]) };
        let mut schedule = Schedule::new(&config);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let now = SystemTime::now();
        // As a clock that is far ahead sees it.
        params.not_before = (now - HOUR * 250).into();
        params.not_after = (now + HOUR * 50).into();
        let file = config.files("a.example.com").cert;
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem()))
            .unwrap();
        assert_eq!(schedule.done("a.example.com"), Some(HOUR * 12));
        assert!(schedule.hosts[0].due >= now + HOUR * 12);

        let (start, ask_again) = (now - HOUR * 2, Duration::ZERO);
        schedule.suggested("a.example.com", Suggestion::Between { start, end: start + HOUR, ask_again });
        assert!(schedule.hosts[0].due >= now + HOUR * 12, "nor because the server always says so");

        params.not_before = now.into();
        std::fs::write(&file, format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem()))
            .unwrap();
        assert_eq!(schedule.done("a.example.com"), None);
        assert!(schedule.hosts[0].due < now + HOUR * 34);
    }

    #[test]
    fn the_other_challenge_is_tried_at_once_and_then_the_pauses_double() {
        let config = config(&["a.example.com"]);
        let mut schedule = Schedule::new(&config);
        assert_eq!(challenge(&schedule), AcmeChallenge::TlsAlpn01);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            assert_eq!(schedule.failed("a.example.com", &invalid(), None), Duration::ZERO);
            assert_eq!(challenge(&schedule), AcmeChallenge::Http01);
            pauses.push(schedule.failed("a.example.com", &invalid(), None).as_secs_f64() / 60.0);
            assert_eq!(challenge(&schedule), AcmeChallenge::TlsAlpn01);
        }
        for (pause, expected) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0]) {
            assert!((0.75 * expected..1.25 * expected).contains(pause), "{pauses:?}");
        }
        for _ in 0..40 {
            assert!(
                schedule.failed("a.example.com", &problem("serverInternal"), None) <= LONGEST_PAUSE * 5 / 4
            );
        }
    }

    #[test]
    fn a_server_that_asks_for_patience_gets_it() {
        let config = config(&["a.example.com"]);
        let mut schedule = Schedule::new(&config);
        assert!(schedule.failed("a.example.com", &problem("rateLimited"), None) >= HOUR);
        let told = schedule.failed("a.example.com", &problem("rateLimited"), Some(HOUR * 3));
        assert_eq!(told, HOUR * 3);
        let told = schedule.failed("a.example.com", &problem("serverInternal"), Some(HOUR * 2));
        assert_eq!(told, HOUR * 2);
    }

    #[test]
    fn the_server_s_suggestion_is_followed() {
        let config = config(&["a.example.com"]);
        let mut schedule = Schedule::new(&config);
        let (start, ask_again) = (SystemTime::now() + HOUR * 100, Duration::ZERO);
        let end = start + HOUR * 10;
        schedule.suggested("a.example.com", Suggestion::Between { start, end, ask_again });
        let chosen = schedule.hosts[0].due;
        assert!((start..=end).contains(&chosen));
        assert!(matches!(schedule.task(&schedule.hosts[0]), Task::LookUp), "asked again until then");
        schedule.suggested("a.example.com", Suggestion::Between { start, end, ask_again });
        assert_eq!(schedule.hosts[0].due, chosen, "chosen once");

        // As when the server has to revoke it.
        let start = SystemTime::now() - HOUR * 2;
        schedule.suggested("a.example.com", Suggestion::Between { start, end: start + HOUR, ask_again });
        match schedule.task(&schedule.hosts[0]) {
            Task::Order(plan) => assert!(plan.replaces),
            Task::LookUp => panic!("it is time"),
        }
    }
}
