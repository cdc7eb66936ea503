//! Start-up: everything that can fail does before anybody is served.

#![deny(unsafe_code)]

pub mod activation;
pub mod handover;
pub mod signals;
pub mod supervise;
pub mod watcher;

use std::io;
use std::panic;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::sync::watch;

use self::activation::ActivationError;
use self::handover::Inherited;
use self::signals::Signals;
use self::supervise::Supervisor;
use super::access_log::AccessLog;
use super::acme::Orders;
use super::admin::{self, AdminError};
use super::admission::Connections;
use super::background::Background;
use super::config::{Config, Flags};
use super::dns::{self, DnsError};
use super::health;
use super::labels::Labels;
use super::listen::{Group, Kind, ListenError};
use super::live::{Loaded, Rules};
use super::memory::{self, Memory};
use super::open_files;
use super::reload::{Reloader, Reloads};
use super::tls::TlsError;
use super::via::Via;
use super::worker::{Shared, WorkerError};

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A certificate does not load.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No DNS server.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// HTTPS without a certificate.
    #[error(
        "there is a listener for HTTPS but no certificate: give one with --cert and --key, or leave HTTPS off"
    )]
    NoCertificate,
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket that was passed.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// What the process before this one passed on.
    #[error("the sockets that the agent before this one passed on: {0}")]
    Inherited(#[source] io::Error),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Signals or threads.
    #[error("can't start: {0}")]
    Start(#[source] io::Error),
    /// A worker did not start.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A worker panicked; it has been logged.
    #[error("a worker ended by an internal error, see the log: please report it")]
    Panicked,
    /// Told twice to end.
    #[error("ended at once by a second signal: running requests were cut")]
    Cut,
}

/// Serves until SIGTERM or SIGINT, then finishes what runs. `config` is what `flags` led to.
///
/// # Errors
///
/// When any part of it can't start, and when a worker fails.
pub fn run(flags: Flags, config: Config) -> Result<(), RunError> {
    panic::set_hook(Box::new(|panic| tracing::error!("internal error, please report it: {panic}")));
    open_files::raise(&config.limits);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(RunError::Start)?
        .block_on(serve(flags, config))
}

async fn serve(flags: Flags, config: Config) -> Result<(), RunError> {
    // Before anybody can connect: who sees a listener may send a signal.
    let signals = Signals::new().map_err(RunError::Start)?;
    let mut inherited = Inherited::take().map_err(RunError::Inherited)?;
    let kept = Arc::default();
    let dns = dns::with_servers(&config.dns)?;
    let loaded = Loaded::new(config, dns, &kept)?;
    let groups = open(&loaded.config, &mut inherited)?;
    let secure = groups.iter().any(Group::is_secure);
    if secure && !loaded.may_serve_https() {
        return Err(RunError::NoCertificate);
    }
    let admin = admin::open(&loaded.config.admin, &mut inherited)?;
    let metrics: Box<[_]> = (0..loaded.config.workers.get()).map(|_| Arc::default()).collect();
    let access_log = AccessLog::default();
    let shared = Arc::new(Shared {
        rules: Arc::new(ArcSwap::from_pointee(Rules::new(loaded, Vec::new(), &metrics))),
        swapped: watch::Sender::default(),
        background: Background::new().map_err(RunError::Start)?,
        tls: kept,
        last_answers: Arc::default(),
        labels: Labels::default(),
        health: Arc::default(),
        memory: Memory::of_this_process(),
        via: Via::default(),
        connections: Connections::default(),
        clients: Arc::default(),
        metrics,
        started: SystemTime::now(),
        acme: Orders::default(),
        reloads: Reloads::default(),
        access_log: access_log.clone(),
    });
    tokio::task::spawn_local(health::run(Arc::clone(&shared)));
    tokio::task::spawn_local(memory::run(Arc::clone(&shared)));
    #[cfg(feature = "podman")]
    {
        super::podman::first_look(&shared).await;
        tokio::task::spawn_local(super::podman::run(Arc::clone(&shared)));
    }
    let reloader = Reloader::new(flags, Arc::clone(&shared), secure);
    let ended = Supervisor::new(shared, reloader, groups, admin, inherited)?.run(signals).await;
    access_log.end();
    ended
}

/// The listeners: those that a service manager passed, or else those configured, of which the process whose place this one
/// takes may have some already.
fn open(config: &Config, inherited: &mut Inherited) -> Result<Vec<Group>, RunError> {
    let mut take = |kind| Group::inherited(inherited, kind).map_err(RunError::Inherited);
    let mut passed = activation::listeners()?;
    for kind in [Kind::PassedHttp, Kind::PassedHttps] {
        passed.extend(take(kind)?.into_iter().map(|(_, group)| group));
    }
    if !passed.is_empty() {
        return Ok(passed);
    }
    let mut groups = Vec::new();
    for (kind, addresses) in [(Kind::Http, &config.listen.http), (Kind::Https, &config.listen.https)] {
        let mut known = take(kind)?;
        for address in addresses {
            groups.push(match known.iter().position(|(known, _)| known == address) {
                Some(place) => known.swap_remove(place).1,
                None => Group::bind(*address, kind == Kind::Https, config.workers.get())?,
            });
        }
    }
    Ok(groups)
}

/// Tells systemd, where it is there.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
