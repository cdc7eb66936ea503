//! When to do what for which host.
//!
//! A certificate is renewed when two thirds of its life have passed, somewhat earlier by chance, so that many hosts don't come
//! at once; where the server suggests when (RFC 9773), then. After a failure the pause doubles, up to half a day; where the
//! server names a time, not before that.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use tokio::time::sleep;

use super::account::Window;
use super::error::AcmeError;
use crate::proxy::config::{AcmeChallenge, AcmeConfig};
use crate::proxy::tls::Certificate;

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_hours(12);

/// The least pause after the server said that it is asked too often without saying for how long.
const RATE_LIMIT_PAUSE: Duration = Duration::from_hours(1);

/// How often to ask when to renew, at most and at least.
const ASK_WINDOW: (Duration, Duration) = (Duration::from_hours(1), Duration::from_hours(24));

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

    /// A certificate came.
    pub(super) fn done(&mut self, name: &str) {
        if let Some(host) = self.host(name) {
            host.failures = 0;
        }
        self.plan(name);
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

    /// The server said when to renew, or that it doesn't.
    pub(super) fn window(&mut self, name: &str, window: Option<Window>) {
        let Some(host) = self.host(name) else { return };
        host.server_suggests = window.is_some();
        let Some(Window { start, end, ask_again }) = window else {
            host.ask = None;
            return;
        };
        let length = end.duration_since(start).unwrap_or_default();
        let chosen = start + length.mul_f64(rand::rng().random());
        // Once the server's time has come it must not be put off by another look.
        if chosen < host.due || !host.is_chosen_in(start, end) {
            host.due = chosen;
        }
        host.ask = Some(SystemTime::now() + ask_again.clamp(ASK_WINDOW.0, ASK_WINDOW.1));
    }

    /// Plans by the certificate that is there.
    fn plan(&mut self, name: &str) {
        let certificate = Certificate::load(&self.config.files(name)).ok();
        let challenges = self.config.challenges.len();
        let Some(host) = self.host(name) else { return };
        let Some(certificate) = certificate.filter(|certificate| certificate.names.covers(name)) else {
            return;
        };
        host.challenge %= challenges;
        host.due = renewal(&certificate);
        host.ask = Some(SystemTime::now()).filter(|now| *now < host.due);
    }

    fn host(&mut self, name: &str) -> Option<&mut Host> {
        self.hosts.iter_mut().find(|host| host.name == name)
    }
}

impl Host {
    fn next(&self) -> SystemTime {
        self.ask.map_or(self.due, |ask| ask.min(self.due))
    }

    fn is_chosen_in(&self, start: SystemTime, end: SystemTime) -> bool {
        self.server_suggests && (start..=end).contains(&self.due)
    }
}

/// Two thirds into the certificate's life, or up to a twentieth of it earlier.
fn renewal(certificate: &Certificate) -> SystemTime {
    let life = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    let share = 2.0 / 3.0 - rand::rng().random_range(0.0..0.05);
    certificate.not_before + life.mul_f64(share)
}
