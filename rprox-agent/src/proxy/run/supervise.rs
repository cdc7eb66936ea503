//! What the main thread does while the workers serve: it hears signals, the admin listener and the file watcher, and sees
//! to the end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::handover::{HandoverError, Inherited, Starting, Successor};
use super::signals::{Asked, Signals};
use super::watcher::{Watched, Watcher};
use crate::proxy::acme;
use crate::proxy::admin::{self, Admin, AdminListener, Order, Phase};
use crate::proxy::listen::{Group, Listener};
use crate::proxy::reload::{Answer, Queue, Reloader};
use crate::proxy::run::{RunError, notify};
use crate::proxy::worker::roster::Stop;
use crate::proxy::worker::{self, Shared, WorkerError};

/// How long the admin listener's clients have to read their answers once all else has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a worker tells.
enum Event {
    Started,
    Ended(thread::Result<Result<usize, WorkerError>>),
}

/// The main thread's work.
pub struct Supervisor {
    shared: Arc<Shared>,
    reloads: Queue,
    /// Listened on while they are here.
    groups: Vec<Group>,
    admin: Option<AdminSocket>,
    ordered: mpsc::Receiver<Order>,
    phase: Rc<Cell<Phase>>,
    stop: watch::Sender<Stop>,
    watcher: Option<Watcher>,
    inherited: Inherited,
    handed_over: bool,
    successor: Successor,
    starting: Option<(Starting, Option<Answer>)>,
}

/// The admin listener while it is this process's.
struct AdminSocket {
    listener: Rc<AdminListener>,
    accepting: AbortHandle,
    places: Arc<Semaphore>,
}

impl AdminSocket {
    /// Takes no more clients.
    fn close(&self) {
        self.accepting.abort();
    }

    /// Lets those that are here hear their answer.
    async fn finished(&self) {
        let all = self.places.acquire_many(admin::CLIENTS);
        let _ = timeout(LAST_WORDS, all).await;
    }
}

impl Supervisor {
    /// Begins to answer on `admin`; to be called on the thread's event loop.
    ///
    /// # Errors
    ///
    /// When it can't be found out which program this is.
    pub fn new(
        shared: Arc<Shared>,
        reloader: Reloader,
        groups: Vec<Group>,
        admin: Option<AdminListener>,
        inherited: Inherited,
    ) -> Result<Self, RunError> {
        let (orders, ordered) = mpsc::channel(1);
        let phase = Rc::new(Cell::new(Phase::Starting));
        let admin = admin.map(|listener| {
            tracing::info!("admin on {listener}");
            let listener = Rc::new(listener);
            let admin = Admin::new(Arc::clone(&shared), reloader.config_file(), Rc::clone(&phase), orders);
            let places = admin::places();
            let serving = admin::serve(Rc::clone(&listener), Arc::clone(&places), Rc::new(admin));
            AdminSocket { listener, accepting: tokio::task::spawn_local(serving).abort_handle(), places }
        });
        let watcher = Watcher::new()
            .inspect_err(|error| tracing::warn!(%error, "changed files are not noticed: reload by SIGHUP"));
        Ok(Self {
            reloads: Queue::new(Arc::clone(&shared), reloader),
            shared,
            groups,
            admin,
            ordered,
            phase,
            stop: watch::Sender::default(),
            watcher: watcher.ok(),
            inherited,
            handed_over: false,
            successor: Successor::of_this().map_err(RunError::Start)?,
            starting: None,
        })
    }

    /// Has the workers serve until it is told to end, and they have.
    ///
    /// # Errors
    ///
    /// When a worker fails, or it is told twice.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), RunError> {
        let workers = self.shared.metrics.len();
        let mut reports = self.start_workers(workers)?;
        self.watch(self.reloads.watched());
        let (mut started, mut ended, mut cut) = (0, 0, 0);
        while ended < workers {
            tokio::select! {
                Some(event) = reports.recv() => match event {
                    Event::Started => {
                        started += 1;
                        if started == workers {
                            self.announce();
                        }
                    }
                    Event::Ended(result) => {
                        cut += result.map_err(|_| RunError::Panicked)??;
                        ended += 1;
                    }
                },
                asked = signals.recv() => match asked {
                    Asked::End => self.stop_or_cut()?,
                    Asked::Reload => self.reload(None),
                    Asked::Upgrade => self.upgrade(None),
                },
                Some(order) = self.ordered.recv() => match order {
                    Order::Reload(answer) => self.reload(Some(answer)),
                    Order::Upgrade(answer) => self.upgrade(Some(answer)),
                },
                () = changed(&mut self.watcher) => self.reload(None),
                files = self.reloads.done() => self.watch(files),
                outcome = serves(&mut self.starting) => self.hand_over(outcome),
            }
        }
        if cut > 0 {
            tracing::warn!(connections = cut, "drain_timeout passed: cut the connections that still ran");
        }
        if let Some(admin) = &self.admin {
            admin.close();
            if !self.handed_over {
                admin.listener.remove();
            }
            admin.finished().await;
        }
        tracing::info!("ended");
        Ok(())
    }

    fn start_workers(&self, workers: usize) -> Result<mpsc::UnboundedReceiver<Event>, RunError> {
        let (events, reports) = mpsc::unbounded_channel();
        let mut listeners: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        for group in &self.groups {
            group.deal(&mut listeners).map_err(RunError::Start)?;
        }
        for (number, listeners) in listeners.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            spawn(number, shared, listeners, events.clone(), self.stop.subscribe())
                .map_err(RunError::Start)?;
        }
        Ok(reports)
    }

    fn watch(&mut self, files: Vec<Watched>) {
        if let Some(watcher) = &mut self.watcher {
            watcher.watch(files);
        }
    }

    fn announce(&mut self) {
        for group in &self.groups {
            tracing::info!("listening on {group}");
        }
        self.phase.set(Phase::Serving);
        notify(&[NotifyState::Ready]);
        if let Err(error) = self.inherited.serves() {
            tracing::warn!(%error, "the agent before this one has gone before it was told to");
        }
        // Only now: the process before this one has been ordering until it was told, and validations come to whoever listens.
        tokio::task::spawn_local(acme::start(Arc::clone(&self.shared)));
    }

    fn reload(&mut self, answer: Option<Answer>) {
        if self.phase.get() != Phase::Draining {
            self.reloads.ask(answer);
        } else if let Some(answer) = answer {
            let _ = answer.send(Err("this process is ending".to_owned()));
        }
    }

    fn upgrade(&mut self, answer: Option<Answer>) {
        match self.start_successor() {
            Ok(starting) => self.starting = Some((starting, answer)),
            Err(error) => refuse_upgrade(&error, answer),
        }
    }

    fn start_successor(&self) -> Result<Starting, HandoverError> {
        if self.phase.get() != Phase::Serving || self.starting.is_some() {
            return Err(HandoverError::Busy);
        }
        tracing::info!("starting a new process to take over");
        let rules = self.shared.rules.load();
        let admin = self.admin.iter().map(|admin| admin.listener.pass_on(&rules.config.admin));
        let sockets: Vec<_> = self.groups.iter().flat_map(Group::pass_on).chain(admin).collect();
        self.successor.start(&sockets)
    }

    /// The new process serves, or never will.
    fn hand_over(&mut self, outcome: Result<u32, HandoverError>) {
        let answer = self.starting.take().and_then(|(_, answer)| answer);
        let process = match outcome {
            Ok(process) => process,
            Err(error) => return refuse_upgrade(&error, answer),
        };
        notify(&[NotifyState::MainPid(process)]);
        tracing::info!(process, "a new process serves: finishing what runs");
        if let Some(answer) = answer {
            let _ = answer.send(Ok(()));
        }
        if let Some(admin) = &self.admin {
            admin.close();
        }
        self.handed_over = true;
        self.end(Stop::HandOver);
    }

    fn stop_or_cut(&mut self) -> Result<(), RunError> {
        if *self.stop.borrow() == Stop::Now {
            return Err(RunError::Cut);
        }
        notify(&[NotifyState::Stopping]);
        let drain_timeout = self.shared.rules.load().config.drain_timeout;
        tracing::info!(?drain_timeout, "told to end: finishing what runs");
        self.end(Stop::Now);
        Ok(())
    }

    fn end(&mut self, stop: Stop) {
        self.phase.set(Phase::Draining);
        self.watcher = None;
        // Who validates comes to the next process from now on, and that orders for itself.
        self.shared.acme.stop();
        // First, so that the workers' own sockets are the last, and what waits in their queues is accepted.
        self.groups.clear();
        self.stop.send_replace(stop);
    }
}

fn refuse_upgrade(error: &HandoverError, answer: Option<Answer>) {
    tracing::error!("no new process takes over, and this one serves on: {error}");
    if let Some(answer) = answer {
        let _ = answer.send(Err(error.to_string()));
    }
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

async fn serves(starting: &mut Option<(Starting, Option<Answer>)>) -> Result<u32, HandoverError> {
    match starting {
        Some((starting, _)) => starting.serves().await,
        None => std::future::pending().await,
    }
}

fn spawn(
    number: usize,
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    events: mpsc::UnboundedSender<Event>,
    stopping: watch::Receiver<Stop>,
) -> io::Result<()> {
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let started = || drop(events.send(Event::Started));
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            worker::run(shared, number, listeners, started, stopping)
        }));
        let _ = events.send(Event::Ended(result));
    })?;
    Ok(())
}
