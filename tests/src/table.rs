//! Every service asked in every way: what `cargo xtask run` shows, and what a scenario insists on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::client::{Answer, Version};
use crate::playground::{Playground, SERVICES, Service};
use crate::topology::{CLIENT, HOST};

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// The service that was asked.
    pub service: Service,
    /// What was asked for.
    pub url: String,
    /// The version of HTTP that was spoken.
    pub version: Version,
    /// The host's address that it was sent to.
    pub to: IpAddr,
    /// The answer, if there was one.
    pub answer: Option<Answer>,
    /// What is wrong with it; nothing, if all is well.
    pub faults: Vec<String>,
}

impl Row {
    /// `IPv4` or `IPv6`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        if self.to.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// The pod that answered.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        self.answer.as_ref()?.field("pod")
    }

    /// The client's address as the pod was told.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.answer.as_ref()?.field("client")
    }

    /// The statuses, such as `301 → 200`.
    #[must_use]
    pub fn status(&self) -> String {
        let statuses = self.answer.iter().flat_map(|answer| &answer.statuses);
        statuses.map(u16::to_string).collect::<Vec<_>>().join(" → ")
    }
}

/// Asks every service: port 80 and 443, HTTP/1.1 and HTTP/2, IPv4 and IPv6. `before_each` is told of each request.
pub fn ask_all(playground: &Playground, mut before_each: impl FnMut(&str)) -> Vec<Row> {
    let mut rows = Vec::new();
    for service in SERVICES {
        let first = rows.len();
        for scheme in ["http", "https"] {
            for version in Version::ALL {
                for (to, own) in HOST.both().into_iter().zip(CLIENT.both()) {
                    let url = format!("{scheme}://{}/", service.host);
                    before_each(&url);
                    rows.push(ask(playground, service, url, version, to, own));
                }
            }
        }
        demand_every_pod(service, &mut rows[first..]);
    }
    rows
}

/// How many rows [`ask_all`] gives: of each service, two schemes, two versions and two families.
pub const ROWS: usize = SERVICES.len() * 2 * 2 * 2;

fn ask(
    playground: &Playground,
    service: Service,
    url: String,
    version: Version,
    to: IpAddr,
    own: IpAddr,
) -> Row {
    let redirected = service.https_redirect && url.starts_with("http:");
    let expected: &[u16] = if redirected { &[301, 200] } else { &[200] };
    let (answer, faults) = match playground.get_at(&url, to).version(version).follow().send() {
        Ok(answer) => {
            let faults = faults(&answer, service, expected, version, to, own);
            (Some(answer), faults)
        }
        Err(error) => (None, vec![format!("{error:#}")]),
    };
    Row { service, url, version, to, answer, faults }
}

fn faults(
    answer: &Answer,
    service: Service,
    expected: &[u16],
    version: Version,
    to: IpAddr,
    own: IpAddr,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |holds: bool, otherwise: String| {
        if !holds {
            faults.push(otherwise);
        }
    };
    demand(answer.statuses == expected, format!("status, expected {expected:?}"));
    demand(answer.version == Some(version), format!("not {version}"));
    demand(answer.remote == Some(to), format!("not answered by {to}"));
    demand(
        answer.field("pod").is_some_and(|pod| service.pods.contains(&pod)),
        "another service's pod".into(),
    );
    let seen = answer.field("client").and_then(|seen| seen.parse::<IpAddr>().ok());
    demand(seen == Some(own), format!("the client is {own}"));
    faults
}

/// A service with several endpoints must have used each.
fn demand_every_pod(service: Service, rows: &mut [Row]) {
    let seen: BTreeSet<_> = rows.iter().filter_map(|row| row.pod().map(str::to_owned)).collect();
    let missing: Vec<_> = service.pods.iter().filter(|pod| !seen.contains(**pod)).copied().collect();
    if let (false, Some(last)) = (missing.is_empty(), rows.last_mut()) {
        last.faults.push(format!("{} never answered", missing.join(", ")));
    }
}
