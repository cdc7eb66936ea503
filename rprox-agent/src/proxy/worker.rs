//! A worker: one thread that serves its connections from accept to upstream and shares nothing on the way of a request.

#![forbid(unsafe_code)]

pub mod parking;
pub mod roster;
pub mod tasks;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::Instant;

use self::parking::Parking;
use self::roster::{Roster, Stop};
use self::tasks::Tasks;
use super::access_log::{AccessLog, Writer};
use super::acme::Orders;
use super::admission::{Clients, Connections};
use super::background::Background;
use super::connection::Arrival;
use super::connection::http2::stream::Stream;
use super::connection::http2::streams::Spare;
use super::dns::{DnsError, LastAnswers};
use super::forward::pool::Pool;
use super::health::Board;
use super::http1::rooms::Room;
use super::labels::Labels;
use super::listen::{self, Listener};
use super::live::{Live, Loaded, Rules, View};
use super::memory::Memory;
use super::metrics::{Limit, Metrics};
use super::reload::Reloads;
use super::silence::Silences;
use super::socket::pipe::Pipes;
use super::timer;
use super::tls::Kept;
use super::via::Via;

/// How often unused upstream connections are looked through, at most.
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);

/// What all workers read.
pub struct Shared {
    /// The rules in force. Workers read them by [`Worker::live`].
    pub rules: Arc<ArcSwap<Rules>>,
    /// Told when they were swapped.
    pub swapped: watch::Sender<()>,
    /// What no request waits for. All that changes the rules is done there.
    pub background: Background,
    /// What TLS keeps from one configuration to the next.
    pub tls: Arc<Kept>,
    /// What DNS last said to any worker.
    pub last_answers: Arc<LastAnswers>,
    /// Client connections by address.
    pub clients: Arc<Clients>,
    /// What each worker counts.
    pub metrics: Box<[Arc<Metrics>]>,
    /// When the process started.
    pub started: SystemTime,
    /// What came of asking for certificates by ACME.
    pub acme: Orders,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// What came of loading the configuration anew.
    pub reloads: Reloads,
    /// What labels of containers ask for.
    pub labels: Labels,
    /// What health checks say.
    pub health: Arc<Board>,
    /// Whether there is memory for more.
    pub memory: Memory,
    /// This process in `Via`.
    pub via: Via,
    /// Client connections of the process; changed when one comes or goes, not by requests.
    pub connections: Connections,
}

impl Shared {
    /// From now on what was `loaded` holds, with the routes that labels ask for. For [`background`](Self::background) alone
    /// to call.
    pub fn put_into_force(&self, loaded: Loaded) {
        let found = self.labels.routes(&loaded.config);
        let before = self.rules.swap(Arc::new(Rules::new(loaded, found, &self.metrics)));
        self.swapped.send_replace(());
        self.background.let_go(before);
    }

    /// Puts into force what labels ask for now; to be waited for.
    pub async fn follow_labels(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let follow = move || shared.put_into_force(shared.rules.load().loaded().clone());
        let _ = self.background.run(follow).await;
    }

    /// Reads the certificates' files again and puts into force what is new in them; to be waited for.
    pub async fn refresh_certificates(&self) {
        let rules = Arc::clone(&self.rules);
        let _ = self.background.run(move || rules.load().tls.refresh()).await;
    }
}

/// What a worker's connections share.
pub struct Worker {
    /// What all workers read.
    pub shared: Arc<Shared>,
    /// Where it logs requests.
    pub access_log: Writer,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Connections to endpoints.
    pub pool: Rc<Pool>,
    /// What bytes are passed through by.
    pub pipes: Pipes,
    /// Room for bodies of requests.
    pub room: Room,
    /// The client connections.
    pub roster: Rc<Roster>,
    /// What is passed on and may fall silent.
    pub silences: Rc<Silences>,
    /// Requests being served.
    pub requests: Cell<usize>,
    /// The client connections that rest.
    pub parking: Parking,
    /// Tasks for client connections.
    pub arrivals: Tasks<Arrival>,
    /// Tasks for streams of HTTP/2.
    pub streams: Tasks<Stream>,
    /// Room for what an HTTP/2 connection has to send.
    pub gathered: Spare,
    /// Room for what it reads.
    pub input: Cell<BytesMut>,
    /// The `Date` of responses, and the second that it is for.
    date: RefCell<(u64, HeaderValue)>,
    view: View,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The runtime.
    #[error("can't make an event loop: {0}; the limit on open files (ulimit -n) may be too low")]
    Runtime(#[source] io::Error),
    /// Something could not be added to the event loop.
    #[error("can't wait for connections: {0}")]
    Waiting(#[source] io::Error),
    /// DNS.
    #[error(transparent)]
    Dns(#[from] DnsError),
}

/// Serves `listeners` on this thread as worker `number` until `stop` says so and what runs has finished, or
/// `drain_timeout` has passed. Returns how many connections were cut.
///
/// # Errors
///
/// When it can't start. It does not fail later.
pub fn run(
    shared: Arc<Shared>,
    number: usize,
    listeners: Vec<Listener>,
    started: impl FnOnce(),
    mut stop: watch::Receiver<Stop>,
) -> Result<usize, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(WorkerError::Runtime)?;
    runtime.block_on(async {
        let worker = Rc::new(Worker::new(shared, number)?);
        let listeners = listeners
            .into_iter()
            .map(|listener| listener.into_async().map_err(WorkerError::Waiting))
            .collect::<Result<Vec<_>, _>>()?;
        let _keeper = timer::keep_time().map_err(WorkerError::Waiting)?;
        started();
        tokio::task::spawn_local(sweep(Rc::clone(&worker)));
        tokio::task::spawn_local(follow(Rc::clone(&worker)));
        tokio::task::spawn_local(let_go(Rc::clone(&worker)));
        tokio::task::spawn_local(keep_time(Rc::clone(&worker)));
        tokio::task::spawn_local(notice_silence(Rc::clone(&worker)));
        tokio::task::spawn_local(parking::attend(Rc::clone(&worker)));
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|(listener, secure)| {
                tokio::task::spawn_local(listen::accept(listener, secure, Rc::clone(&worker), stop.clone()))
            })
            .collect();
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        for task in accepting {
            let _ = task.await;
        }
        drain(&worker, stop).await;
        Ok(worker.roster.running())
    })
}

/// Ends the connections within `drain_timeout`. Where another process has taken over there is no hurry for the first half of
/// it: a connection that is in use ends with the answer to its next request, which no client can take amiss.
async fn drain(worker: &Worker, mut stop: watch::Receiver<Stop>) {
    let limit = Instant::now() + worker.live().config.drain_timeout;
    if *stop.borrow() == Stop::HandOver {
        worker.roster.start(Stop::HandOver);
        let half = Instant::now() + worker.live().config.drain_timeout / 2;
        tokio::select! {
            () = worker.roster.finished() => {}
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
            () = timer::sleep_until(half) => {}
        }
    }
    worker.roster.start(Stop::Now);
    let _ = timer::timeout_at(limit, worker.roster.finished()).await;
}

impl Worker {
    fn new(shared: Arc<Shared>, number: usize) -> Result<Self, WorkerError> {
        let metrics = Arc::clone(&shared.metrics[number]);
        let pool = Rc::new(Pool::new(Arc::clone(&metrics), Arc::clone(&shared.health)));
        Ok(Self {
            view: View::new(Arc::clone(&shared), number, Rc::clone(&pool))?,
            access_log: shared.access_log.writer(),
            metrics,
            pool,
            pipes: Pipes::default(),
            room: Room::default(),
            roster: Rc::default(),
            silences: Rc::default(),
            requests: Cell::new(0),
            parking: Parking::new().map_err(WorkerError::Waiting)?,
            arrivals: Tasks::default(),
            streams: Tasks::default(),
            gathered: Spare::default(),
            input: Cell::default(),
            date: RefCell::new((0, HeaderValue::from_static(""))),
            shared,
        })
    }

    /// The `Date` of a response that is made now.
    pub fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (known, date) = &mut *self.date.borrow_mut();
        if *known != second
            && let Ok(new) = HeaderValue::try_from(httpdate::fmt_http_date(now))
        {
            (*known, *date) = (second, new);
        }
        date.clone()
    }

    /// The rules in force. Whoever begins something asks once and keeps to them to its end.
    #[must_use]
    pub fn live(&self) -> Rc<Live> {
        self.view.live()
    }

    /// Whether a client connection on which nothing is asked has to end; counted where memory is why.
    #[must_use]
    pub fn ends_idle(&self) -> bool {
        let is_short = self.shared.memory.is_short();
        if is_short {
            self.metrics.limit_hits[Limit::Memory].increment();
        }
        is_short || self.roster.stop() == Stop::Now
    }

    /// Whether client connections are to end with their next answer.
    #[must_use]
    pub fn lets_connections_go(&self) -> bool {
        self.roster.stop() != Stop::No || self.shared.memory.is_short()
    }
}

/// Closes upstream connections that are of no use any more, for ever.
async fn sweep(worker: Rc<Worker>) {
    loop {
        let limit = worker.live().config.timeouts.upstream_idle;
        timer::sleep((limit / 4).max(SHORTEST_SWEEP)).await;
        worker.pool.sweep(limit);
        worker.arrivals.let_go();
        worker.streams.let_go();
    }
}

/// Adopts new rules even while no request asks for them, so that what only the old ones needed is let go.
async fn follow(worker: Rc<Worker>) {
    let mut swapped = worker.shared.swapped.subscribe();
    loop {
        let _ = worker.live();
        if swapped.changed().await.is_err() {
            return;
        }
    }
}

/// Has client connections know when their deadlines have passed, for ever.
async fn keep_time(worker: Rc<Worker>) {
    worker.roster.keep_time(|| worker.live().config.timeouts.shortest_for_clients()).await;
}

/// Has tunnels know when they have been silent for too long, for ever.
async fn notice_silence(worker: Rc<Worker>) {
    worker.silences.keep_time().await;
}

/// Closes connections that nobody uses whenever memory is short.
async fn let_go(worker: Rc<Worker>) {
    let mut changes = worker.shared.memory.changes();
    while changes.changed().await.is_ok() {
        if *changes.borrow_and_update() {
            worker.roster.wake();
            worker.pool.sweep(Duration::ZERO);
            worker.arrivals.let_go();
            worker.streams.let_go();
        }
    }
}
