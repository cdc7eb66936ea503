//! Start-up, and what the main thread does while the workers serve: it hears signals, the admin listener and the file
//! watcher, and sees to the end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

use super::activation::{self, ActivationError};
use super::admin::{self, Admin, AdminError, Order, Phase};
use super::config::{Config, Flags};
use super::listen::{ListenError, Listener};
use super::live::Rules;
use super::metrics::Metrics;
use super::reload::{Reloader, Reloads};
use super::signals::{Asked, Signals};
use super::tls::TlsError;
use super::watcher::Watcher;
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

/// What a worker tells the main thread.
enum Event {
    Started,
    Ended(thread::Result<Result<usize, WorkerError>>),
}

/// Serves until SIGTERM or SIGINT, then finishes what runs. `config` is what `flags` led to.
///
/// # Errors
///
/// When any part of it can't start, and when a worker fails.
pub fn run(flags: Flags, config: Config) -> Result<(), RunError> {
    panic::set_hook(Box::new(|panic| tracing::error!("internal error, please report it: {panic}")));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(RunError::Start)?
        .block_on(serve(flags, config))
}

async fn serve(flags: Flags, config: Config) -> Result<(), RunError> {
    // Before anybody can connect: who sees a listener may send a signal.
    let signals = Signals::new().map_err(RunError::Start)?;
    let kept = Arc::default();
    let rules = Rules::new(config, &kept)?;
    let listeners = open(&rules.config)?;
    let secure = listeners.iter().flatten().any(Listener::is_secure);
    if secure && rules.tls.is_empty() {
        return Err(RunError::NoCertificate);
    }
    let admin = admin::open(&rules.config.admin)?;
    let workers = rules.config.workers.get();
    let shared = Arc::new(Shared {
        rules: Arc::new(ArcSwap::from_pointee(rules)),
        swapped: watch::Sender::default(),
        tls: kept,
        last_answers: Arc::default(),
        connections: AtomicUsize::new(0),
        metrics: (0..workers).map(|_| Arc::default()).collect(),
        started: SystemTime::now(),
        reloads: Reloads::default(),
    });
    let reloader = Reloader::new(flags, Arc::clone(&shared), secure);
    let (orders, ordered) = mpsc::channel(1);
    let phase = Rc::new(Cell::new(Phase::Starting));
    if let Some(listener) = admin {
        tracing::info!("admin on {listener}");
        let admin = Admin::new(Arc::clone(&shared), reloader.config_file(), Rc::clone(&phase), orders);
        tokio::task::spawn_local(admin::serve(listener, Rc::new(admin)));
    }
    Supervisor { shared, reloader, phase }.run(listeners, signals, ordered).await
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

/// The main thread's work.
struct Supervisor {
    shared: Arc<Shared>,
    reloader: Reloader,
    phase: Rc<Cell<Phase>>,
}

impl Supervisor {
    async fn run(
        self,
        listeners: Vec<Vec<Listener>>,
        mut signals: Signals,
        mut ordered: mpsc::Receiver<Order>,
    ) -> Result<(), RunError> {
        let (stop, stopping) = watch::channel(false);
        let (events, mut reports) = mpsc::unbounded_channel();
        let workers = self.shared.metrics.len();
        let addresses: Vec<String> =
            listeners.iter().filter_map(|sockets| Some(sockets.first()?.to_string())).collect();
        let mut listeners: Vec<_> = listeners.into_iter().map(Vec::into_iter).collect();
        for number in 0..workers {
            let listeners = listeners.iter_mut().filter_map(Iterator::next).collect();
            let (shared, metrics) = (Arc::clone(&self.shared), Arc::clone(&self.shared.metrics[number]));
            spawn(number, shared, metrics, listeners, events.clone(), stopping.clone())
                .map_err(RunError::Start)?;
        }
        drop((events, stopping));
        let mut watcher = Watcher::new()
            .inspect_err(|error| tracing::warn!(%error, "changed files are not noticed: reload by SIGHUP"))
            .ok();
        self.watch(&mut watcher);

        let (mut started, mut ended, mut cut) = (0, 0, 0);
        while ended < workers {
            tokio::select! {
                Some(event) = reports.recv() => match event {
                    Event::Started => {
                        started += 1;
                        if started == workers {
                            self.announce(&addresses);
                        }
                    }
                    Event::Ended(result) => {
                        cut += result.map_err(|_| RunError::Panicked)??;
                        ended += 1;
                    }
                },
                asked = signals.recv() => match asked {
                    Asked::End => self.stop_or_cut(&stop)?,
                    Asked::Reload => {
                        let _ = self.reloader.reload();
                        self.watch(&mut watcher);
                    }
                },
                Some(order) = ordered.recv() => match order {
                    Order::Reload(answer) => {
                        let result = self.reloader.reload().map_err(|error| error.to_string());
                        self.watch(&mut watcher);
                        let _ = answer.send(result);
                    }
                },
                () = changed(&mut watcher) => {
                    let _ = self.reloader.reload();
                    self.watch(&mut watcher);
                }
            }
        }
        if cut > 0 {
            tracing::warn!(connections = cut, "drain_timeout passed: cut the connections that still ran");
        }
        tracing::info!("ended");
        Ok(())
    }

    /// Watches what the configuration in force came from, if it says so.
    fn watch(&self, watcher: &mut Option<Watcher>) {
        if let Some(watcher) = watcher {
            let wanted = self.shared.rules.load().config.watch;
            watcher.watch(if wanted { self.reloader.files() } else { Vec::new() });
        }
    }

    fn announce(&self, addresses: &[String]) {
        for address in addresses {
            tracing::info!("listening on {address}");
        }
        self.phase.set(Phase::Serving);
        notify(&[NotifyState::Ready]);
    }

    fn stop_or_cut(&self, stop: &watch::Sender<bool>) -> Result<(), RunError> {
        if stop.send_replace(true) {
            return Err(RunError::Cut);
        }
        self.phase.set(Phase::Draining);
        notify(&[NotifyState::Stopping]);
        let drain_timeout = self.shared.rules.load().config.drain_timeout;
        tracing::info!(?drain_timeout, "told to end: finishing what runs");
        Ok(())
    }
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
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

/// Tells systemd, where it is there.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
