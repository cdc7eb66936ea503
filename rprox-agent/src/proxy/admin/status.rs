//! `/status.json`: what is in force and how it is.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Phase;
use super::upstreams::{self, UpstreamStatus};
use crate::proxy::labels::Report;
use crate::proxy::route::RouteTls;
use crate::proxy::worker::Shared;

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    pid: u32,
    phase: &'static str,
    /// Seconds since 1970, as all times here.
    started_at: u64,
    configuration: Configuration<'a>,
    connections: usize,
    /// What came of looking for labels of containers, where that is configured.
    labels: Option<Report>,
    routes: Vec<Route<'a>>,
    upstreams: Vec<UpstreamStatus<'a>>,
    certificates: Vec<Certificate<'a>>,
}

#[derive(Serialize)]
struct Configuration<'a> {
    file: Option<&'a Path>,
    loaded_at: u64,
    /// Whether the last attempt to load it anew was refused, so that what is in force is not what the file says.
    last_reload_refused: bool,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "these are the names in the JSON")]
struct Route<'a> {
    route: &'a str,
    upstreams: Vec<&'a str>,
    tls: RouteTls,
    /// Whether a container's label asked for it.
    by_label: bool,
}

#[derive(Serialize)]
struct Certificate<'a> {
    file: &'a Path,
    names: Vec<String>,
    expires_at: u64,
}

/// The status as it is now.
///
/// # Errors
///
/// When it can't be written, which has no reason known.
pub(super) fn json(shared: &Shared, file: Option<&Path>, phase: Phase) -> Result<String, serde_json::Error> {
    let rules = shared.rules.load();
    let certificates = rules.tls.certificates();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        phase: match phase {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        },
        started_at: seconds(shared.started),
        configuration: Configuration {
            file,
            loaded_at: seconds(rules.loaded_at),
            last_reload_refused: shared.reloads.last_was_refused(),
        },
        connections: shared.connections.count(),
        labels: rules.config.podman.is_some().then(|| shared.labels.report()),
        routes: rules
            .all_routes()
            .enumerate()
            .map(|(place, route)| Route {
                route: &route.label,
                upstreams: route.upstream.all().map(|upstream| upstream.authority.as_str()).collect(),
                tls: route.tls,
                by_label: place >= rules.config.routes.len(),
            })
            .collect(),
        upstreams: upstreams::all(shared, &rules),
        certificates: certificates
            .iter()
            .map(|certificate| Certificate {
                file: &certificate.file,
                names: certificate.names.iter().collect(),
                expires_at: seconds(certificate.not_after),
            })
            .collect(),
    };
    let mut json = serde_json::to_string_pretty(&status)?;
    json.push('\n');
    Ok(json)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
