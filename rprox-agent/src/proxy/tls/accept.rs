//! The handshake, or where it is to be made.

#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;

use super::identity::ClientIdentity;
use super::recorded::Recorded;
use super::store::{Shown, TlsAcceptor};
use super::{CertificateNames, TlsError, challenges};
use crate::proxy::host;
use crate::proxy::route::RouteTable;
use crate::proxy::socket::lazy_tcp::LazyTcp;

/// Fatal alerts as plaintext records, which is how they look before the `ServerHello` in every version (RFC 8446 sections
/// 5.1 and 6): `unrecognized_name` (112) and `no_application_protocol` (120).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// What a client's connection has come to.
pub enum Accepted {
    /// TLS with us.
    Terminated(Box<TlsConnection>),
    /// TLS with the upstream of the route that the client's host has.
    Passthrough(Opening),
    /// An ACME server's validation, which has seen what it came for.
    Validated,
}

/// A connection whose TLS is another's, as far as it has been read.
pub struct Opening {
    /// The client's connection.
    pub tcp: LazyTcp,
    /// What was read from it: a whole `ClientHello`, and what came with it.
    pub read: Vec<u8>,
    /// The host that the client asks for, normalised.
    pub host: String,
}

/// A client's TLS connection.
pub struct TlsConnection {
    /// The stream of plain text. Boxed once and for all: it takes more than a kibibyte, for which each future that has had it
    /// would keep room.
    pub stream: Box<tokio_rustls::server::TlsStream<Recorded>>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// Whether it is TLS 1.3.
    pub tls13: bool,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// What its requests may be for.
    pub secured: Box<Secured>,
}

/// What a connection's requests may be for.
pub struct Secured {
    /// What the certificate shown is for: a request for another host gets 421 (RFC 9110 section 15.5.20).
    pub covers: Arc<CertificateNames>,
    /// The host whose clients' certificates were asked for, where they were.
    pub asked_for: Option<String>,
    /// Who the client is.
    pub identity: Option<ClientIdentity>,
}

/// How to go on with a handshake.
struct Plan {
    config: Arc<ServerConfig>,
    /// `None` where an ACME server validates a name.
    covers: Option<Arc<CertificateNames>>,
    asked_for: Option<String>,
}

impl TlsAcceptor {
    /// Does the handshake, unless `routes` have it passed through; how long it may take is the caller's to say. A name that no
    /// certificate is for is refused with the alert `unrecognized_name` (RFC 6066 section 3); a client that names none sees the
    /// first certificate.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn accept(&self, tcp: LazyTcp, routes: &RouteTable) -> Result<Accepted, TlsError> {
        let io = Recorded::new(tcp, routes.passes_through());
        let mut start =
            LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(TlsError::Handshake)?;
        if let Some(host) = passes_to(self.shown(), routes, &start.client_hello()) {
            let (tcp, read) = start.io.into_parts();
            return Ok(Accepted::Passthrough(Opening { tcp, read, host }));
        }
        start.io.forget();
        let planned = plan(self.shown(), &start.client_hello());
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => {
                // The connection ends here in any case; whether the client still hears why is its own concern.
                let _ = start.io.write_all(alert(&error)).await;
                let _ = start.io.shutdown().await;
                return Err(error);
            }
        };
        let mut stream = start.into_stream(plan.config).await.map_err(TlsError::Handshake)?;
        let Some(covers) = plan.covers else {
            let _ = stream.shutdown().await;
            return Ok(Accepted::Validated);
        };
        let (_, connection) = stream.get_ref();
        let identity = connection.peer_certificates().and_then(ClientIdentity::new);
        Ok(Accepted::Terminated(Box::new(TlsConnection {
            http2: connection.alpn_protocol() == Some(b"h2"),
            tls13: connection.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            secured: Box::new(Secured { covers, asked_for: plan.asked_for, identity }),
            stream: Box::new(stream),
        })))
    }
}

/// The host that the client asks for, if its TLS is to be passed through. A validation of our own asking stays here.
fn passes_to(shown: &Shown, routes: &RouteTable, hello: &ClientHello<'_>) -> Option<String> {
    if !routes.passes_through() {
        return None;
    }
    let host = hello.server_name().and_then(host::normalise)?;
    routes.passthrough(&host)?;
    let is_ours = is_validation(hello) && shown.kept.challenges.config(&host).is_some();
    (!is_ours).then(|| host.into_owned())
}

fn is_validation(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == challenges::ALPN))
}

fn plan(shown: &Shown, hello: &ClientHello<'_>) -> Result<Plan, TlsError> {
    let name = hello.server_name().and_then(host::normalise);
    if is_validation(hello) {
        let name = name.unwrap_or_default();
        let config = shown.kept.challenges.config(&name);
        let config = config.ok_or_else(|| TlsError::NoChallenge(name.into_owned()))?;
        return Ok(Plan { config, covers: None, asked_for: None });
    }
    let covers = Some(Arc::clone(&shown.certificates.choose(hello)?.names));
    let asking = name.as_deref().and_then(|host| shown.asking.of(host));
    Ok(match asking {
        Some(config) => {
            Plan { config: Arc::clone(config), covers, asked_for: name.map(std::borrow::Cow::into_owned) }
        }
        None => Plan { config: Arc::clone(&shown.plain), covers, asked_for: None },
    })
}

fn alert(error: &TlsError) -> &'static [u8] {
    match error {
        TlsError::NoChallenge(_) => &NO_APPLICATION_PROTOCOL,
        _ => &UNRECOGNIZED_NAME,
    }
}

/// One certificate, whoever asks.
#[derive(Debug)]
pub(super) struct Fixed(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
