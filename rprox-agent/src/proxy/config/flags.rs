//! The flags for the simple case. They win over the file.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::units;
use crate::cli::{LogFormat, parse_log_level};

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file (TOML); without it, flags are all there is
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// A route: HOST or HOST/PATH, and the NAME:PORT that serves it; repeatable
    ///
    /// HOST is a name, `*.` and a name for any one label before it, or `*` for every host without a route of its own. A
    /// route of the file for the same host and path gives way.
    #[arg(short, long = "route", value_name = "HOST=UPSTREAM", value_parser = parse_route)]
    pub routes: Vec<FlagRoute>,

    /// Accept plain HTTP here [default: port 8080 of any address]; repeatable
    #[arg(long, value_name = "ADDR", value_parser = units::parse_listen)]
    pub http: Vec<SocketAddr>,

    /// Accept HTTPS here [default: port 8443 of any address, where there is a certificate or a route that passes TLS through]; repeatable
    #[arg(long, value_name = "ADDR", value_parser = units::parse_listen)]
    pub https: Vec<SocketAddr>,

    /// Ask this DNS server, on port 53 unless told otherwise [default: those of /etc/resolv.conf]; repeatable
    #[arg(long = "dns-server", value_name = "ADDR", value_parser = units::parse_dns_server)]
    pub dns_servers: Vec<SocketAddr>,

    /// The domain that upstream names without a dot are in, such as dns.podman
    #[arg(long, value_name = "DOMAIN", value_parser = units::parse_domain)]
    pub dns_search: Option<String>,

    /// A certificate (PEM, its chain after it) for the hosts that it names; clients that ask for no name get it too
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Worker threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Believe the forwarding headers of peers in this network; repeatable
    #[arg(long = "trusted-proxy", value_name = "CIDR", value_parser = units::parse_network)]
    pub trusted_proxies: Vec<IpNet>,

    /// How long running requests may take to finish once told to stop [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    pub drain_timeout: Option<Duration>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "RPROX_LOG", value_parser = parse_log_level)]
    pub log_level: Option<String>,

    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// A route given by flag.
#[derive(Clone, Debug)]
pub struct FlagRoute {
    /// The flag as it was written, for messages.
    pub(super) flag: String,
    pub(super) host: String,
    pub(super) path: Option<String>,
    pub(super) upstream: String,
}

#[cfg(test)]
impl Flags {
    /// The least that makes a configuration.
    pub(crate) fn of_route(host: &str, upstream: &str) -> Self {
        let route = parse_route(&format!("{host}={upstream}")).expect("a route");
        Self { routes: vec![route], ..Self::default() }
    }
}

fn parse_route(text: &str) -> Result<FlagRoute, String> {
    let (hosts, upstream) = text.split_once('=').ok_or("write it as HOST=UPSTREAM")?;
    let (host, path) = match hosts.find('/') {
        Some(slash) => (&hosts[..slash], Some(hosts[slash..].to_owned())),
        None => (hosts, None),
    };
    Ok(FlagRoute {
        flag: format!("--route {text}"),
        host: host.to_owned(),
        path,
        upstream: upstream.to_owned(),
    })
}
