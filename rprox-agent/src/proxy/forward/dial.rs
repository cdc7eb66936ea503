//! How a connection to an endpoint is made: TCP, TLS where it is wanted, and the HTTP that both ends agree on.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Way;
use super::failure::Failure;
use super::http1::Http1;
use super::http2::Http2;
use crate::proxy::config::Config;
use crate::proxy::http1::rooms::Rooms;
use crate::proxy::socket::lazy_tcp::LazyTcp;
use crate::proxy::socket::stream::Stream;
use crate::proxy::timer::timeout;
use crate::proxy::upstream::Protocol;

/// What making a connection goes by.
pub struct Dial<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// How long it may take in all.
    pub limit: Duration,
    /// Whether HTTP/2 is of no use, as for an upgrade.
    pub only_http1: bool,
    /// The PROXY header to begin with: the connection is then for one client, and shared with nobody.
    pub preface: Option<&'a [u8]>,
    /// For what is read from it.
    pub rooms: &'a Rc<Rooms>,
    /// Set once the endpoint's TCP has answered.
    pub reached: &'a Cell<bool>,
}

/// A connection that is made.
pub enum Connected {
    /// HTTP/1.1.
    Http1(Box<Http1>),
    /// HTTP/2.
    Http2(Box<Http2>),
}

impl Dial<'_> {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When that fails or takes too long.
    pub async fn connect(&self, way: &Way) -> Result<Connected, Failure> {
        timeout(self.limit, self.make(way)).await.ok_or(Failure::ConnectTimeout)?
    }

    /// Makes a connection that no HTTP is spoken on.
    ///
    /// # Errors
    ///
    /// When that fails or takes too long.
    pub async fn wire(&self, way: &Way) -> Result<LazyTcp, Failure> {
        timeout(self.limit, self.tcp(way)).await.ok_or(Failure::ConnectTimeout)?
    }

    async fn make(&self, way: &Way) -> Result<Connected, Failure> {
        let tcp = self.tcp(way).await?;
        // An endpoint that vanished without a word acknowledges nothing; TCP alone would hope for a quarter of an hour.
        set_user_timeout(&tcp.socket().map_err(Failure::Connect)?, Some(self.limit));
        let (io, http2) = match (&way.tls, way.protocol) {
            (Some(tls), _) => {
                let config = if self.only_http1 { &tls.only_http1 } else { &tls.config };
                let connector = TlsConnector::from(Arc::clone(config));
                let tcp = tcp.into_watched().map_err(Failure::Connect)?;
                let stream =
                    connector.connect(tls.server_name.clone(), tcp).await.map_err(Failure::Handshake)?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Io::Tls(Box::new(stream)), http2)
            }
            (None, Protocol::Https) => return Err(Failure::Handshake(io::ErrorKind::Unsupported.into())),
            (None, protocol) => (Io::Plain(tcp), protocol == Protocol::H2c),
        };
        if http2 {
            Ok(Connected::Http2(Box::new(Http2::new(io, self).await?)))
        } else {
            Ok(Connected::Http1(Box::new(Http1::new(io, self))))
        }
    }

    async fn tcp(&self, way: &Way) -> Result<LazyTcp, Failure> {
        let mut tcp = LazyTcp::connect(way.address).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::Connect(error),
        })?;
        self.reached.set(true);
        if let Some(preface) = self.preface {
            tcp.write_all(preface).await.map_err(Failure::Connect)?;
        }
        Ok(tcp)
    }
}

/// For how long an endpoint may acknowledge nothing, or have no room for more (`TCP_USER_TIMEOUT`, RFC 5482); `None`: as TCP will.
fn set_user_timeout(tcp: &impl AsFd, limit: Option<Duration>) {
    if let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(limit) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT refused");
    }
}

/// A connection to an endpoint.
pub(super) type Io = Stream<TlsStream<TcpStream>>;

impl Io {
    /// For how long the endpoint may acknowledge nothing, or have no room for more; `None`: as TCP will.
    pub(super) fn set_user_timeout(&self, limit: Option<Duration>) {
        match self {
            Self::Plain(tcp) => {
                if let Ok(socket) = tcp.socket() {
                    set_user_timeout(&socket, limit);
                }
            }
            Self::Tls(stream) => set_user_timeout(stream.get_ref().0, limit),
        }
    }
}
