//! The little of Podman's REST API that is needed, over its Unix socket.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long Podman has for an answer: it may have to start first, and takes locks that others hold.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const LONGEST: usize = 16 << 20;

/// The API of Podman 4, which later ones speak too.
const API: &str = "/v4.0.0/libpod";

/// `{"status":["running"]}`. Not by label: of one that is misspelt nobody would be told.
const RUNNING: &str = "%7B%22status%22%3A%5B%22running%22%5D%7D";

/// `{"type":["container","network"],"event":[…]}`: those after which a container may be reached in another way than before.
/// Health checks and commands in containers are none of them.
const EVENTS: &str = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C%22event%22%3A%5B\
                      %22start%22%2C%22restart%22%2C%22died%22%2C%22stop%22%2C%22remove%22%2C%22rename%22%2C\
                      %22pause%22%2C%22unpause%22%2C%22connect%22%2C%22disconnect%22%5D%7D";

/// Why Podman can't be asked.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    /// Nobody listens.
    #[error(
        "{}: {error}; is Podman's API there (`systemctl --user enable --now podman.socket`), and may this user use it?",
        socket.display()
    )]
    Connect { socket: PathBuf, error: io::Error },
    /// It is silent.
    #[error("no answer for {PATIENCE:?}")]
    Silent,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// It refuses.
    #[error("{path} was answered with {status}")]
    Status { path: String, status: StatusCode },
    /// An answer too long, or cut.
    #[error("the answer can't be read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer in another form.
    #[error("the answer can't be understood: {0}")]
    Json(#[from] serde_json::Error),
    /// No more events.
    #[error("the stream of events ended")]
    Ended,
}

/// A container in a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    names: Option<Vec<String>>,
    #[serde(default, deserialize_with = "or_none")]
    pub(super) labels: BTreeMap<String, String>,
}

impl Listed {
    /// Its name, or its id where it has none.
    pub(super) fn name(&self) -> &str {
        self.names.iter().flatten().next().unwrap_or(&self.id)
    }
}

/// Reads a value that may be null.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A container looked at by itself: only so are its addresses told, for one in a pod too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    #[serde(default)]
    pub(super) created: String,
    network_settings: Option<NetworkSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Attached>>,
}

/// A container on a network.
#[derive(Debug, Deserialize)]
pub(super) struct Attached {
    #[serde(rename = "IPAddress", default)]
    ipv4: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    ipv6: String,
}

impl Inspected {
    pub(super) fn networks(&self) -> BTreeMap<&String, &Attached> {
        let networks = self.network_settings.iter().filter_map(|settings| settings.networks.as_ref());
        networks.flatten().collect()
    }
}

impl Attached {
    /// Its address, of either family.
    pub(super) fn address(&self) -> Option<IpAddr> {
        [&self.ipv4, &self.ipv6].into_iter().find_map(|address| address.parse().ok())
    }
}

/// Podman at its socket.
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// A connection for several questions.
    pub(super) async fn connect(&self) -> Result<Connection, ApiError> {
        let failed = |error| ApiError::Connect { socket: self.socket.clone(), error };
        let stream = patient(async { UnixStream::connect(&self.socket).await.map_err(failed) }).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Whoever waits for an answer is told if it breaks.
        tokio::task::spawn_local(async { drop(connection.await) });
        Ok(Connection(sender))
    }

    /// All events from now on.
    pub(super) async fn events(&self) -> Result<Events, ApiError> {
        let mut connection = self.connect().await?;
        let answer = connection.get(format!("{API}/events?stream=true&filters={EVENTS}")).await?;
        Ok(Events { body: answer.into_body(), _connection: connection })
    }
}

/// A connection to Podman.
pub(super) struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    /// The containers that run.
    pub(super) async fn containers(&mut self) -> Result<Vec<Listed>, ApiError> {
        let answer = self.get(format!("{API}/containers/json?filters={RUNNING}")).await?;
        Ok(json::<Option<_>>(answer).await?.unwrap_or_default())
    }

    /// A container by its id, if it is there.
    pub(super) async fn inspect(&mut self, id: &str) -> Result<Option<Inspected>, ApiError> {
        match self.get(format!("{API}/containers/{id}/json")).await {
            Ok(answer) => json(answer).await.map(Some),
            Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&mut self, path: String) -> Result<Response<Incoming>, ApiError> {
        let request = Request::get(&path).header(header::HOST, "podman");
        // An id with something odd in it would be no path.
        let request = request.body(Empty::new()).map_err(|error| ApiError::Body(error.into()))?;
        let answer = patient(async {
            self.0.ready().await?;
            Ok(self.0.send_request(request).await?)
        });
        let answer = answer.await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                // Read, so that the connection is good for more.
                let _ = patient(text(answer)).await;
                Err(ApiError::Status { path, status })
            }
        }
    }
}

/// A stream of events. What they say is not read: that there is one is enough.
pub(super) struct Events {
    body: Incoming,
    _connection: Connection,
}

impl Events {
    /// Waits for an event.
    pub(super) async fn next(&mut self) -> Result<(), ApiError> {
        self.body.frame().await.ok_or(ApiError::Ended)??;
        Ok(())
    }

    /// Takes those that have come already.
    pub(super) fn skip_waiting(&mut self) -> Result<(), ApiError> {
        while let Some(event) = self.next().now_or_never() {
            event?;
        }
        Ok(())
    }
}

async fn text(answer: Response<Incoming>) -> Result<Bytes, ApiError> {
    let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(ApiError::Body)?;
    Ok(body.to_bytes())
}

async fn json<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, ApiError> {
    let text = patient(text(answer)).await?;
    Ok(serde_json::from_slice(&text)?)
}

async fn patient<T>(work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(ApiError::Silent))
}
