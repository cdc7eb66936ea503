//! One check of one endpoint.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use http::header::{HOST, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri, Version};
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use crate::proxy::config::Config;
use crate::proxy::forward::dial::{Connected, Dial};
use crate::proxy::forward::endpoint::Way;
use crate::proxy::forward::request::{Beside, UpstreamRequest};
use crate::proxy::upstream::set::HealthCheck;
use crate::proxy::upstream::{Protocol, Upstream};

/// Asks the endpoint for the check's path, on a connection of its own. `Err` says why it did not pass.
pub(super) async fn passes(
    check: &HealthCheck,
    way: &Way,
    upstream: &Upstream,
    config: &Config,
    preface: Option<&[u8]>,
) -> Result<(), String> {
    let asked = timeout(check.timeout, ask(check, way, upstream, config, preface));
    let status = asked.await.map_err(|_| "no answer within health.timeout".to_owned())??;
    if check.accepts(status) { Ok(()) } else { Err(format!("status {status}")) }
}

async fn ask(
    check: &HealthCheck,
    way: &Way,
    upstream: &Upstream,
    config: &Config,
    preface: Option<&[u8]>,
) -> Result<u16, String> {
    let reached = Cell::new(false);
    let rooms = Rc::default();
    let dial =
        Dial { config, limit: check.timeout, only_http1: false, preface, rooms: &rooms, reached: &reached };
    let connected = dial.connect(way).await.map_err(|failure| failure.to_string())?;
    let mut request = UpstreamRequest::empty();
    request.head.uri = Uri::from(check.path.clone());
    let agent =
        HeaderValue::from_static(concat!("rprox-agent/", env!("CARGO_PKG_VERSION"), " (health check)"));
    request.head.headers.insert(USER_AGENT, agent);
    let sent = match connected {
        Connected::Http1(mut link) => {
            let host = HeaderValue::from_str(authority(upstream)).map_err(|error| error.to_string())?;
            request.head.headers.insert(HOST, host);
            link.send(request, Beside::default(), check.timeout).await.map(|response| response.status())
        }
        Connected::Http2(mut link) => {
            request.head.version = Version::HTTP_2;
            let mut parts = std::mem::take(&mut request.head.uri).into_parts();
            parts.scheme = Some(if way.protocol == Protocol::Https { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = Authority::try_from(authority(upstream)).ok();
            request.head.uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
            link.send(request, Beside::default(), check.timeout).await.map(|response| response.status())
        }
    };
    sent.map(|status| status.as_u16()).map_err(|error| error.failure.to_string())
}

/// Whom it asks for: the upstream as it is written or, where its certificate is for another name, that.
fn authority(upstream: &Upstream) -> &str {
    match upstream.tls.as_deref().map(|tls| &tls.server_name) {
        Some(ServerName::DnsName(name)) if !name.as_ref().eq_ignore_ascii_case(upstream.host()) => {
            name.as_ref()
        }
        _ => &upstream.authority,
    }
}
