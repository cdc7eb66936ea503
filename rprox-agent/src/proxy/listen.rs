//! Listeners: every worker has a socket of each, so that the kernel spreads the connections.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Arrival, Origin};
use super::metrics::Limit;
use super::run::handover::Inherited;
use super::socket::acceptor::Acceptor;
use super::socket::lazy_tcp::LazyTcp;
use super::timer::sleep;
use super::worker::Worker;
use super::worker::roster::Stop;

/// Connections that wait to be accepted, for each socket; the kernel cuts it to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;

/// How long to wait when no connection can be accepted: for want of files or memory, and both come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Least time between two log lines on the same trouble.
const LOG_PAUSE: Duration = Duration::from_secs(5);

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error(
        "can't listen on {0}: the port is taken; see who has it with `ss -ltnp 'sport = :{port}'`, or listen elsewhere \
         (listen.http, listen.https)", port = .0.port()
    )]
    Taken(SocketAddr),
    /// The port needs a privilege.
    #[error(
        "can't listen on {0}: port {port} is privileged, and the agent runs without privileges; listen on 8080 and 8443 \
         and let rprox-loader redirect, or use its mode `grant`", port = .0.port()
    )]
    Privileged(SocketAddr),
    /// The address is not this host's.
    #[error("can't listen on {0}: this host has no such address; [::] and 0.0.0.0 stand for all it has")]
    NoSuchAddress(SocketAddr),
    /// Anything else.
    #[error("can't listen on {address}: {error}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

impl ListenError {
    fn new(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => Self::Taken(address),
            ErrorKind::PermissionDenied => Self::Privileged(address),
            ErrorKind::AddrNotAvailable => Self::NoSuchAddress(address),
            _ => Self::Other { address, error },
        }
    }
}

/// The sockets of one address.
///
/// It outlives the workers' own, as what is passed on to a process that takes over. While it lives the address is listened
/// on, so it has to go before the workers stop to accept.
#[derive(Debug)]
pub struct Group {
    sockets: Vec<Socket>,
    secure: bool,
    passed: bool,
}

impl Group {
    /// Listens on `address` once for each of `workers`, TLS if `secure`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or somebody else listens there.
    pub fn bind(address: SocketAddr, secure: bool, workers: usize) -> Result<Self, ListenError> {
        let refused = |error| ListenError::new(address, error);
        // SO_REUSEPORT would let a second agent of the same user take half of the connections without a word; a socket
        // without it can be bound only where nobody listens.
        open(address).and_then(|probe| probe.bind(&address.into())).map_err(refused)?;
        let sockets = (0..workers)
            .map(|_| {
                let socket = open(address)?;
                socket.set_reuse_port(true)?;
                socket.bind(&address.into())?;
                socket.listen(BACKLOG)?;
                Ok(socket)
            })
            .collect::<io::Result<_>>();
        Ok(Self { sockets: sockets.map_err(refused)?, secure, passed: false })
    }

    /// Takes sockets of one address that a service manager opened.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn passed(sockets: Vec<Socket>, secure: bool) -> io::Result<Self> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        Ok(Self { sockets, secure, passed: true })
    }

    /// Takes what the process before this one listened on by the name of `kind`, address by address.
    ///
    /// # Errors
    ///
    /// When a socket isn't one.
    pub fn inherited(inherited: &mut Inherited, kind: Kind) -> io::Result<Vec<(SocketAddr, Self)>> {
        let mut groups: Vec<(SocketAddr, Self)> = Vec::new();
        for socket in inherited.sockets(kind.name()) {
            let socket = Socket::from(socket);
            let address = socket.local_addr()?.as_socket().ok_or(ErrorKind::InvalidInput)?;
            match groups.iter_mut().find(|(known, _)| *known == address) {
                Some((_, group)) => group.sockets.push(socket),
                None => groups.push((
                    address,
                    Self { sockets: vec![socket], secure: kind.is_secure(), passed: kind.is_passed() },
                )),
            }
        }
        Ok(groups)
    }

    /// Gives every worker a socket, and every socket a worker. Workers that share one take turns at accepting.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn deal(&self, workers: &mut [Vec<Listener>]) -> io::Result<()> {
        for turn in 0..self.sockets.len().max(workers.len()) {
            let socket = self.sockets[turn % self.sockets.len()].try_clone()?;
            workers[turn % workers.len()].push(Listener { socket, secure: self.secure });
        }
        Ok(())
    }

    /// What is passed on, with its name.
    pub fn pass_on(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let kind = Kind::of(self.secure, self.passed);
        self.sockets.iter().map(move |socket| (kind.name().to_owned(), socket.as_fd()))
    }

    /// Whether it is TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

/// What a socket that is passed on is for, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain HTTP, on an address of the configuration.
    Http,
    /// HTTP over TLS, on an address of the configuration.
    Https,
    /// Plain HTTP, opened by a service manager.
    PassedHttp,
    /// HTTP over TLS, opened by a service manager.
    PassedHttps,
}

impl Kind {
    fn of(secure: bool, passed: bool) -> Self {
        match (secure, passed) {
            (false, false) => Self::Http,
            (true, false) => Self::Https,
            (false, true) => Self::PassedHttp,
            (true, true) => Self::PassedHttps,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::PassedHttp => "passed-http",
            Self::PassedHttps => "passed-https",
        }
    }

    fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::PassedHttps)
    }

    fn is_passed(self) -> bool {
        matches!(self, Self::PassedHttp | Self::PassedHttps)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        let address = self.sockets.first().and_then(|socket| socket.local_addr().ok()?.as_socket());
        match address {
            Some(address) => write!(f, "{address} ({scheme})"),
            None => write!(f, "an unknown address ({scheme})"),
        }
    }
}

/// A worker's socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    secure: bool,
}

impl Listener {
    /// For the worker's event loop, with whether it is TLS.
    ///
    /// # Errors
    ///
    /// When the socket can't be added to it.
    pub fn into_async(self) -> io::Result<(Acceptor, bool)> {
        Ok((Acceptor::new(self.socket)?, self.secure))
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Accepts until `stop` says so, then takes what the kernel has accepted already: closing the socket would reset it. One on which
/// nothing has come is reset when something does, unless another process has the socket too.
pub async fn accept(listener: Acceptor, secure: bool, worker: Rc<Worker>, mut stop: watch::Receiver<Stop>) {
    let mut complaints = Complaints::default();
    let mut stopped = pin!(stop.wait_for(|stop| *stop != Stop::No));
    loop {
        let accepted = poll_fn(|cx| match stopped.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => listener.poll_accept(cx).map(Some),
        });
        match accepted.await {
            None => break,
            Some(Ok((tcp, peer))) => admit(&worker, tcp, peer, secure, &mut complaints),
            // The client left before it was its turn.
            Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
            Some(Err(error)) => {
                complaints.log(|| tracing::error!(%error, "can't accept connections; trying again"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Ok((tcp, peer)) = listener.accept_now() {
        admit(&worker, tcp, peer, secure, &mut complaints);
    }
}

fn admit(worker: &Rc<Worker>, tcp: LazyTcp, peer: SocketAddr, secure: bool, complaints: &mut Complaints) {
    let limit = worker.live().config.limits.connections;
    worker.metrics.client_connections.increment();
    if worker.shared.memory.is_short() {
        // That it is has been logged.
        worker.metrics.limit_hits[Limit::Memory].increment();
        if !secure {
            refuse(&tcp, "not enough memory");
        }
        return;
    }
    let Some(admission) = Admission::take(worker, limit) else {
        worker.metrics.limit_hits[Limit::Connections].increment();
        complaints.log(|| tracing::warn!(limit, "limits.connections reached: refusing connections"));
        if !secure {
            refuse(&tcp, "too many connections");
        }
        return;
    };
    worker.arrivals.give(worker, Arrival { admission, from: Origin::Client { tcp, peer, secure } });
}

/// Says why, as far as one packet goes. A TLS client would need a handshake first, which is what can't be afforded.
pub(super) fn refuse(tcp: &LazyTcp, why: &str) {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let body = format!("{status}: {why}\n");
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = tcp.try_write(response.as_bytes());
}

/// Leave to be one of the process's client connections.
pub struct Admission(Rc<Worker>);

impl Admission {
    fn take(worker: &Rc<Worker>, limit: usize) -> Option<Self> {
        worker.shared.connections.begin(limit).then(|| {
            worker.metrics.client_connections_open.up();
            Self(Rc::clone(worker))
        })
    }

    /// Whose the connection is.
    #[must_use]
    pub fn worker(&self) -> &Rc<Worker> {
        &self.0
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.shared.connections.end();
        self.0.metrics.client_connections_open.down();
    }
}

/// Keeps trouble that comes by the thousand from filling the log.
#[derive(Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn log(&mut self, write: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() >= LOG_PAUSE) {
            self.0 = Some(Instant::now());
            write();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    #[test]
    fn what_is_accepted_sends_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let group = Group::bind("127.0.0.1:0".parse().unwrap(), false, 1).unwrap();
            let address = group.sockets[0].local_addr().unwrap().as_socket().unwrap();
            let mut dealt = [Vec::new()];
            group.deal(&mut dealt).unwrap();
            let (listener, _) = dealt[0].pop().unwrap().into_async().unwrap();
            let _client = Client::connect(address).unwrap();
            let (mut accepted, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            assert!(accepted.watched().unwrap().nodelay().unwrap());
        });
    }
}
