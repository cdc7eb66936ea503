//! Start-up, signals and the end.

#![forbid(unsafe_code)]

use std::io;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::activation::{self, ActivationError};
use super::config::Config;
use super::listen::{ListenError, Listener};
use super::live::Rules;
use super::metrics::Metrics;
use super::tls::TlsError;
use super::worker::{self, Shared, WorkerError};

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A certificate does not load.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

/// What a worker tells the main thread.
enum Event {
    Started,
    Ended(thread::Result<Result<usize, WorkerError>>),
}

/// Serves until SIGTERM or SIGINT, then finishes what runs.
///
/// # Errors
///
/// When any part of it can't start, and when a worker fails.
pub fn run(config: Config) -> Result<(), RunError> {
    panic::set_hook(Box::new(|panic| tracing::error!("internal error, please report it: {panic}")));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Start)?
        .block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), RunError> {
    // Before anybody can connect: who sees a listener may send a signal.
    let signals = Signals::new().map_err(RunError::Start)?;
    let rules = Rules::new(config)?;
    let listeners = open(&rules.config)?;
    let secure = listeners.iter().flatten().any(Listener::is_secure);
    if secure && rules.tls.is_none() {
        return Err(RunError::NoCertificate);
    }
    let shared = Arc::new(Shared {
        rules: Arc::new(ArcSwap::from_pointee(rules)),
        swapped: watch::Sender::default(),
        last_answers: Arc::default(),
        connections: AtomicUsize::new(0),
    });
    supervise(&shared, listeners, signals).await
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The listeners, each as a socket for every worker: those that a service manager passed, or else those configured.
fn open(config: &Config) -> Result<Vec<Vec<Listener>>, RunError> {
    let workers = config.workers.get();
    let passed = activation::listeners(workers)?;
    if !passed.is_empty() {
        return Ok(passed);
    }
    let http = config.listen.http.iter().map(|address| (*address, false));
    let https = config.listen.https.iter().map(|address| (*address, true));
    let bound = http.chain(https).map(|(address, secure)| Listener::bind(address, secure, workers));
    Ok(bound.collect::<Result<_, _>>()?)
}

async fn supervise(
    shared: &Arc<Shared>,
    listeners: Vec<Vec<Listener>>,
    mut signals: Signals,
) -> Result<(), RunError> {
    let (stop, stopping) = watch::channel(false);
    let (events, mut reports) = mpsc::unbounded_channel();
    let workers = shared.rules.load().config.workers.get();
    let addresses: Vec<String> =
        listeners.iter().filter_map(|sockets| Some(sockets.first()?.to_string())).collect();
    let mut listeners: Vec<_> = listeners.into_iter().map(Vec::into_iter).collect();
    for number in 0..workers {
        let listeners = listeners.iter_mut().filter_map(Iterator::next).collect();
        let metrics = Arc::new(Metrics::default());
        spawn(number, Arc::clone(shared), metrics, listeners, events.clone(), stopping.clone())
            .map_err(RunError::Start)?;
    }
    drop((events, stopping));

    let (mut started, mut ended, mut cut) = (0, 0, 0);
    while ended < workers {
        tokio::select! {
            Some(event) = reports.recv() => match event {
                Event::Started => {
                    started += 1;
                    if started == workers {
                        announce(&addresses);
                    }
                }
                Event::Ended(result) => {
                    cut += result.map_err(|_| RunError::Panicked)??;
                    ended += 1;
                }
            },
            () = signals.recv() => stop_or_cut(&stop, shared)?,
        }
    }
    if cut > 0 {
        tracing::warn!(connections = cut, "drain_timeout passed: cut the connections that still ran");
    }
    tracing::info!("ended");
    Ok(())
}

fn spawn(
    number: usize,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    listeners: Vec<Listener>,
    events: mpsc::UnboundedSender<Event>,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let started = || drop(events.send(Event::Started));
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            worker::run(shared, metrics, listeners, started, stopping)
        }));
        let _ = events.send(Event::Ended(result));
    })?;
    Ok(())
}

fn announce(addresses: &[String]) {
    for address in addresses {
        tracing::info!("listening on {address}");
    }
    notify(NotifyState::Ready);
}

fn stop_or_cut(stop: &watch::Sender<bool>, shared: &Shared) -> Result<(), RunError> {
    if stop.send_replace(true) {
        return Err(RunError::Cut);
    }
    notify(NotifyState::Stopping);
    tracing::info!(drain_timeout = ?shared.rules.load().config.drain_timeout, "told to end: finishing what runs");
    Ok(())
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
