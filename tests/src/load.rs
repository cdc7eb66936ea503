//! Steady GET requests from the client's namespace, every one of which is accounted for.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::netns::{Netns, enter_on_this_thread};
use crate::wait;

/// Between two requests of a connection: enough load to hit every moment, and few enough connections that the client's
/// ports, each out of use for a minute after, never run out.
const PACE: Duration = Duration::from_millis(2);
/// What a user would wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No load outlives this, whatever becomes of the test.
const LONGEST: Duration = Duration::from_mins(2);

/// Which connection a request goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// One connection for all requests, opened again only where the server announced that it closes.
    Kept,
    /// A new one for each request.
    New,
}

/// What becomes of a kept connection that the server closes between two requests, which it may at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// That is a failure: the server had no reason to.
    Fails,
    /// The request goes over a new connection, as every client does (RFC 9112 section 9.3.1).
    Reopens,
}

/// A load that runs until it is told to stop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
    reopened: AtomicU64,
    failures: Mutex<Vec<String>>,
    longest: Mutex<Duration>,
}

/// How the requests went.
#[derive(Debug)]
pub struct Tally {
    /// Requests that got a 200.
    pub served: u64,
    /// Of these, over a new connection after the server had closed the kept one.
    pub reopened: u64,
    /// What became of the others.
    pub failures: Vec<String>,
    /// The longest that one took.
    pub longest: Duration,
}

impl Load {
    /// Sends requests for `host` to `target` from inside `netns`, over kept and over new connections at once.
    #[must_use]
    pub fn start(netns: &Netns, target: SocketAddr, host: &str) -> Self {
        Self::start_with(Closed::Fails, netns, target, host)
    }

    /// The same, with a say in what a closed connection means.
    #[must_use]
    pub fn start_with(closed: Closed, netns: &Netns, target: SocketAddr, host: &str) -> Self {
        Self::start_in(closed, &netns.path(), target, host)
    }

    /// The same, from inside the network namespace at `path`.
    #[must_use]
    pub fn start_in(closed: Closed, path: &Path, target: SocketAddr, host: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = [Connections::Kept, Connections::New].map(|connections| {
            let (shared, path, host) = (Arc::clone(&shared), path.to_owned(), host.to_owned());
            thread::spawn(move || match enter_on_this_thread(&path) {
                Ok(()) => shared.send_requests(target, &host, connections, closed),
                Err(error) => shared.fail(format!("{error:#}")),
            })
        });
        Self { shared, threads: threads.into() }
    }

    /// Waits until `more` requests have been served from now on.
    ///
    /// # Errors
    ///
    /// They were not, in time.
    pub fn wait_for_more(&self, more: u64) -> Result<()> {
        let goal = self.shared.served.load(Ordering::Relaxed) + more;
        let served = || (self.shared.served.load(Ordering::Relaxed) >= goal).then_some(());
        wait::until(wait::READY * 2, &format!("{more} more requests to be served"), served)
            .map_err(|error| anyhow!("{error}; {}", describe(&self.shared.failures())))
    }

    /// Keeps requests coming for `time`: for what must hold throughout a time, not what comes after it.
    ///
    /// # Errors
    ///
    /// A request failed.
    pub fn hold_for(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        wait::until(time + wait::READY, "the time to pass", || {
            (Instant::now() >= end || !self.shared.failures().is_empty()).then_some(())
        })?;
        let failures = self.shared.failures();
        if failures.is_empty() { Ok(()) } else { bail!("{}", describe(&failures)) }
    }

    /// Stops, and tells how it went.
    ///
    /// # Errors
    ///
    /// A thread of it panicked.
    pub fn finish(mut self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("the load generator panicked"))?;
        }
        Ok(Tally {
            served: self.shared.served.load(Ordering::Relaxed),
            reopened: self.shared.reopened.load(Ordering::Relaxed),
            failures: self.shared.failures(),
            longest: *self.shared.longest.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    /// Asserts that no request failed and that some were sent.
    ///
    /// # Panics
    ///
    /// Otherwise.
    pub fn assert_all_served(&self) {
        assert!(self.failures.is_empty(), "{} served, but {}", self.served, describe(&self.failures));
        assert!(self.served > 0, "no request was sent");
    }
}

impl Shared {
    fn send_requests(&self, target: SocketAddr, host: &str, connections: Connections, closed: Closed) {
        let end = Instant::now() + LONGEST;
        let mut kept = None;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < end {
            let begun = Instant::now();
            let is_kept = kept.is_some();
            let mut outcome = request(kept.take(), target, host, connections);
            if is_kept && closed == Closed::Reopens && outcome.as_ref().is_err_and(was_closed) {
                self.reopened.fetch_add(1, Ordering::Relaxed);
                outcome = request(None, target, host, connections);
            }
            match outcome {
                Ok(connection) => {
                    kept = connection;
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.fail(format!("{connections:?} after {:?}: {error}", begun.elapsed())),
            }
            let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
            *longest = longest.max(begun.elapsed());
            drop(longest);
            thread::sleep(PACE);
        }
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends one request and reads its whole answer. Returns the connection if it may be used again.
fn request(
    kept: Option<BufReader<TcpStream>>,
    target: SocketAddr,
    host: &str,
    connections: Connections,
) -> io::Result<Option<BufReader<TcpStream>>> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(target)?,
    };
    let last = if connections == Connections::New { "Connection: close\r\n" } else { "" };
    write!(stream.get_mut(), "GET /load HTTP/1.1\r\nHost: {host}\r\n{last}\r\n")?;

    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("answer {line:?}")));
    }
    let (mut length, mut close) = (None, false);
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse::<u64>().ok(),
            Some(("connection", "close")) => close = true,
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    let read = io::copy(&mut stream.by_ref().take(length), &mut io::sink())?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((!close && connections == Connections::Kept).then_some(stream))
}

/// Whether the connection was closed before a byte of the answer came.
fn was_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn connect(target: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn describe(failures: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = format!("{} requests failed", failures.len());
    for failure in failures.iter().take(SHOWN) {
        let _ = write!(text, "\n    {failure}");
    }
    text
}
