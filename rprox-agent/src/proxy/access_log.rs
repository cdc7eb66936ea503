//! The access log: a line for each request, when its response has ended, and for each connection that was passed through.
//!
//! Lines are handed to a thread that writes them, over a queue that drops and counts what is beyond its length: whoever reads
//! slowly delays no request. No line has a query, a cookie or a credential in it.

#![forbid(unsafe_code)]

mod line;
pub mod trace;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{REFERER, USER_AGENT};
use http::request::Parts;
use http::{HeaderName, Method, Request, StatusCode, Version};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use self::trace::Trace;
use super::config::AccessFormat;
use super::metrics::{Kind, Series, Value};

/// The target of the events in the format `text`, for log filters.
pub const TARGET: &str = "access";

/// Lines that wait to be written, at most; there is a place for each as soon as there is one.
const QUEUE: usize = 8_192;

/// What nginx logs for a client that left before its answer; there is no official status for it.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request, or of a connection that is passed through.
#[derive(Debug)]
pub struct Record {
    /// The address of the connection's other end.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// When the request's head was read.
    pub start: SystemTime,
    /// `HTTP/1.1` and the like; `None` where TLS was passed through.
    pub version: Option<Version>,
    /// `GET` and the like.
    pub method: Method,
    /// The normalised host; empty while unknown.
    pub host: String,
    /// The path. Never the query: secrets travel in it.
    pub path: String,
    /// `Referer` without its query, and `User-Agent`, as far as they are text.
    pub referer: Option<String>,
    /// As it came.
    pub user_agent: Option<String>,
    /// The trace that the request is part of.
    pub trace: Option<Trace>,
    /// The route's label; empty when there was none.
    pub route: String,
    /// Who answered; `None`: the agent did.
    pub endpoint: Option<SocketAddr>,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The response's status; `None` when there was no response.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body, or all that were sent to the client.
    pub bytes: u64,
    /// Bytes that came from the client, where TLS was passed through.
    pub received: Option<u64>,
    /// From the request's head to the end of the response, or how long the connection lasted.
    pub lasted: Duration,
}

impl Record {
    /// What a request's head says.
    #[must_use]
    pub fn new(client: IpAddr, secure: bool, parts: &Parts, trace: Option<Trace>) -> Self {
        let field = |name: HeaderName| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        Self {
            client,
            secure,
            start: SystemTime::now(),
            version: Some(parts.version),
            method: parts.method.clone(),
            host: String::new(),
            path: parts.uri.path().to_owned(),
            referer: field(REFERER).map(|referer| without_secrets(&referer)),
            user_agent: field(USER_AGENT),
            trace,
            route: String::new(),
            endpoint: None,
        }
    }

    /// Of a request over HTTP/1.1 whose head could not be read, and is not to be repeated.
    #[must_use]
    pub fn unread(client: IpAddr, secure: bool) -> Self {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(b"-").unwrap_or_default();
        Self { path: "-".to_owned(), ..Self::new(client, secure, &parts, None) }
    }

    /// Of a connection to `host` whose TLS is passed through.
    #[must_use]
    pub fn passthrough(client: IpAddr, host: String, route: &str) -> Self {
        Self { version: None, host, route: route.to_owned(), ..Self::unread(client, true) }
    }

    /// What is spoken.
    fn protocol(&self) -> Protocol {
        Protocol(self.version)
    }
}

/// What a connection speaks, as far as it can be read.
struct Protocol(Option<Version>);

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(version) => write!(formatter, "{version:?}"),
            None => formatter.write_str("TLS"),
        }
    }
}

/// A URL without user, query and fragment.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            let user = authority.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[user..])
        }
        None => url.to_owned(),
    }
}

impl Outcome {
    fn status(&self) -> u16 {
        self.status.map_or(CLIENT_LEFT, |status| status.as_u16())
    }
}

/// Where lines go: to standard output. The queue is there once there is a line for it, which with the format `text` never is.
#[derive(Clone, Default)]
pub struct AccessLog(Arc<OnceLock<Queue>>);

struct Queue {
    lines: NonBlocking,
    /// Lines that could not be written.
    unwritten: Arc<AtomicUsize>,
    /// `None` once it has ended.
    written: Mutex<Option<WorkerGuard>>,
}

impl AccessLog {
    fn lines(&self) -> &NonBlocking {
        let queue = self.0.get_or_init(|| {
            let unwritten = Arc::default();
            let out = Output { unwritten: Arc::clone(&unwritten), fails: false };
            let (lines, written) = queue("access-log", QUEUE, out);
            Queue { lines, unwritten, written: Mutex::new(Some(written)) }
        });
        &queue.lines
    }

    /// A worker's own end.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer { log: self.clone(), lines: RefCell::default() }
    }

    /// Waits until all is written. What comes later is lost.
    pub fn end(&self) {
        if let Some(queue) = self.0.get() {
            drop(queue.written.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// As a metric.
    #[must_use]
    pub fn series(&self) -> Series {
        let lost =
            |queue: &Queue| queue.lines.error_counter().dropped_lines() + queue.unwritten.load(Relaxed);
        let lost = self.0.get().map_or(0, lost);
        let lost = i64::try_from(lost).unwrap_or(i64::MAX);
        Series {
            name: "rprox_access_log_lines_lost",
            help: "Lines of the access log that its reader was too slow for, or that could not be written",
            kind: Kind::Counter,
            values: vec![(Vec::new(), Value::Number(lost))],
        }
    }
}

/// Standard output, with word of what it doesn't take: the queue's thread has nobody to tell.
struct Output {
    unwritten: Arc<AtomicUsize>,
    /// Whether it did not take the last line: said once, not for each.
    fails: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let result = io::stdout().write_all(line);
        if let Err(error) = &result {
            self.unwritten.fetch_add(1, Relaxed);
            if !self.fails {
                tracing::error!(%error, "the access log can't be written: its lines are lost");
            }
        }
        self.fails = result.is_err();
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// A writer that never waits for `to`: what is written goes through a queue of so many `lines`, and is lost where that is full.
pub fn queue(thread: &str, lines: usize, to: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines).thread_name(thread).finish(to)
}

/// A worker's end of the access log.
pub struct Writer {
    log: AccessLog,
    /// The queue, and room for a line; `None` before the first.
    lines: RefCell<Option<(NonBlocking, String)>>,
}

impl Writer {
    /// Writes a line.
    pub fn write(&self, format: AccessFormat, record: &Record, outcome: Outcome) {
        let compose: fn(&Record, Outcome, &mut String) = match format {
            AccessFormat::Text => return line::event(record, outcome),
            AccessFormat::Json => line::json,
            AccessFormat::Combined => line::combined,
        };
        let mut lines = self.lines.borrow_mut();
        let (lines, line) = lines.get_or_insert_with(|| (self.log.lines().clone(), String::new()));
        line.clear();
        compose(record, outcome, line);
        line.push('\n');
        // It counts what it loses.
        let _ = lines.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referer_loses_what_may_be_secret() {
        for (url, kept) in [
            ("https://a.example/x?token=1#y", "https://a.example/x"),
            ("https://user:secret@a.example/x@y", "https://a.example/x@y"),
            ("/relative?x", "/relative"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(url), kept, "{url}");
        }
    }
}
