//! The admin listener: health, status and metrics for an operator and their monitoring, and orders.
//!
//! It is served by the main thread, which has nothing to do with requests, and so answers when the workers are overloaded.

#![forbid(unsafe_code)]

mod client;
mod families;
mod metrics;
mod socket;
mod status;
mod upstreams;

use std::cell::Cell;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;

pub use self::client::{CallError, order};
pub use self::socket::{AdminError, AdminListener, open};
use super::worker::Shared;

/// How many clients are served at a time; more wait.
pub(super) const CLIENTS: u32 = 32;

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all workers accept yet.
    Starting,
    /// All do.
    Serving,
    /// It finishes what runs, and takes no more.
    Draining,
}

/// What an operator orders, and whom to tell how it went.
pub enum Order {
    /// Load the configuration anew.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Let a new build take over.
    Upgrade(oneshot::Sender<Result<(), String>>),
}

/// What the admin listener tells about.
pub struct Admin {
    shared: Arc<Shared>,
    config_file: Option<PathBuf>,
    phase: Rc<Cell<Phase>>,
    orders: mpsc::Sender<Order>,
}

impl Admin {
    /// An admin that passes `orders` on.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        config_file: Option<PathBuf>,
        phase: Rc<Cell<Phase>>,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self { shared, config_file, phase, orders }
    }

    /// `local` if the client is the agent's own user, who alone may give orders.
    async fn answer(&self, method: &Method, path: &str, local: bool) -> Response<Full<Bytes>> {
        let read = matches!(*method, Method::GET | Method::HEAD);
        match path {
            "/healthz" | "/readyz" | "/status.json" | "/metrics" if !read => not_allowed("GET, HEAD"),
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => match self.phase.get() {
                Phase::Serving => text(StatusCode::OK, "ready\n"),
                Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
                Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            "/status.json" => match status::json(&self.shared, self.config_file.as_deref(), self.phase.get())
            {
                Ok(json) => typed(json, "application/json"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/metrics" => match metrics::text(&self.shared) {
                Ok(metrics) => typed(metrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/reload" | "/upgrade" if !local => {
                text(StatusCode::FORBIDDEN, "orders are taken on a Unix socket only\n")
            }
            "/reload" | "/upgrade" if *method != Method::POST => not_allowed("POST"),
            "/reload" => self.order(Order::Reload).await,
            "/upgrade" => self.order(Order::Upgrade).await,
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /status.json and /metrics\n"),
        }
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Order,
    ) -> Response<Full<Bytes>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(order(answer)).await;
        match answered.await {
            Ok(Ok(())) => text(StatusCode::OK, "done\n"),
            Ok(Err(reason)) => text(StatusCode::CONFLICT, format!("{reason}\n")),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n"),
        }
    }
}

/// A place for each client that is served at a time.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CLIENTS as usize))
}

/// Serves for ever.
pub async fn serve(listener: Rc<AdminListener>, places: Arc<Semaphore>, admin: Rc<Admin>) {
    let local = listener.is_local();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "the admin listener can't accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let admin = Rc::clone(&admin);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let admin = Rc::clone(&admin);
                async move {
                    Ok::<_, Infallible>(admin.answer(request.method(), request.uri().path(), local).await)
                }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin client's connection failed");
            }
            drop(place);
        });
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = typed(text, "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

fn typed(body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this is not how to ask for it\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
