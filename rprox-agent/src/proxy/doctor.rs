//! `rprox-agent doctor`: what on this host, or in this container, will keep the agent from serving, and what to do.
//!
//! Facts are read here and beside the checks, and each check is a function of facts. Nothing is changed; DNS and the ACME server
//! are asked as the agent would ask them.

#![forbid(unsafe_code)]

mod certificates;
mod clock;
mod limits;
mod names;
mod podman;
mod ports;
mod user;

use std::time::SystemTime;
use std::{fs, io};

use rustix::process::geteuid;

use self::podman::Podman;
use self::user::User;
use super::acme;
use super::config::{Config, ConfigError, Flags, Mistake};
use super::dns::{DnsError, Names};
use super::open_files;
use super::tls::Certificate;
use crate::findings::{Finding, Findings};

/// Where this runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where the agent runs too: in a container, or on a host without Podman.
    Agents,
    /// On a host with Podman, whose networks can't be reached from here.
    PodmanHost,
}

/// What to do about what only the agent's container can tell.
const IN_THE_CONTAINER: &str =
    "ask in the agent's container: `podman exec rprox /rprox-agent doctor -c /etc/rprox/rprox.toml`";

/// Looks at what an agent by `flags` meets; without a file and routes, at the host alone.
///
/// # Errors
///
/// The configuration is wrong.
pub fn examine(flags: &Flags) -> Result<Findings, ConfigError> {
    let podman = Podman::read();
    let place = if podman.is_some() { Place::PodmanHost } else { Place::Agents };
    let me = geteuid().as_raw();
    let mut findings = vec![user::root(me)];
    let has_configuration = flags.config.is_some() || !flags.routes.is_empty();
    let config = match has_configuration.then(|| Config::load(flags)).transpose() {
        Ok(config) => config,
        Err(error) => match error.absent_files() {
            Some(files) if place == Place::PodmanHost => {
                findings.push(elsewhere(files));
                None
            }
            _ => return Err(error),
        },
    };
    if let Some(podman) = podman {
        findings.extend(podman::check(&podman));
        // None of it is root's.
        if me != 0 {
            findings.extend(user::check(&User::read(me)));
        }
    }
    findings.extend(ports::check_all(config.as_ref().map(|config| &config.listen), me));
    findings.extend(limits::check(
        config.as_ref().map(|config| config.limits.connections),
        open_files::most(),
        fs::read_to_string(limits::SOMAXCONN).ok().and_then(|text| text.trim().parse().ok()),
    ));
    if let Some(config) = config {
        let now = SystemTime::now();
        for files in &config.certificates {
            let loaded = Certificate::load(files);
            findings.extend(certificates::check(
                &files.cert,
                loaded.as_ref().map_err(ToString::to_string),
                now,
            ));
        }
        match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
        {
            Ok(runtime) => findings.extend(runtime.block_on(over_the_network(&config, place))),
            Err(error) => findings.push(cant_look(&error)),
        }
    }
    Ok(Findings::new(findings))
}

/// Files that the configuration names, and that aren't on the host.
fn elsewhere(files: &[Mistake]) -> Finding {
    let named = files.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Finding::warning(
        "configuration",
        format!("it can't be looked at from the host as far as it is for a container: {named}"),
        IN_THE_CONTAINER,
    )
}

fn cant_look(error: &io::Error) -> Finding {
    Finding::warning(
        "network",
        format!("no event loop to ask with: {error}"),
        "see whether memory or descriptors are short",
    )
}

/// What DNS and the ACME server say. Must run on a local runtime.
async fn over_the_network(config: &Config, place: Place) -> Vec<Finding> {
    let mut findings = match Names::new(&config.dns, std::sync::Arc::default(), |_, _| {}) {
        Ok(view) => {
            let asked = names::upstreams(&config.routes);
            let answers = asked.iter().map(async |upstream| {
                let endpoints = view.endpoints(upstream).await;
                names::check(&upstream.authority, endpoints.as_deref(), place)
            });
            futures_util::future::join_all(answers).await
        }
        Err(error @ (DnsError::ResolvConf(_) | DnsError::NoServers)) => {
            vec![Finding::fault(
                "resolv.conf",
                error.to_string(),
                "set dns.servers to the network's gateway, say 10.89.0.1",
            )]
        }
        Err(error) => vec![Finding::fault("dns", error.to_string(), "see [dns] of the configuration")],
    };
    if let Some(acme) = &config.acme {
        let answer = acme::directory_date(acme).await;
        findings.extend(clock::check(&acme.directory, &answer, SystemTime::now()));
    }
    findings
}
