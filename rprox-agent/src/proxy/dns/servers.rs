//! The DNS servers, and which of them is asked when.
//!
//! They are asked in their order, as the C library does (`resolv.conf(5)`): the next where one fails or refuses, and beside one
//! that takes long. So one that is broken, or is not for the name, does not sink what another answers, and one that has never
//! heard of a pod is not believed because it is nearer.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::DnsError;
use crate::proxy::config::DnsConfig;
use crate::proxy::timer::timeout;

/// How long a server has before the next is asked beside it: less than half of what a refresh waits.
const HEAD_START: Duration = Duration::from_millis(200);

/// The largest answer over UDP that is asked for where 512 bytes don't do: room for some 250 addresses.
const LARGE_ANSWER: u16 = 4096;

/// All of them, in their order.
pub(super) struct Servers {
    all: Vec<Server>,
    /// The most that one query, with all its attempts, may take a server.
    patience: Duration,
}

struct Server {
    plain: TokioResolver,
    /// For answers that are too large without EDNS.
    large: TokioResolver,
}

impl Servers {
    /// Those at `addresses`, asked as `config` says.
    pub(super) fn new(addresses: Vec<SocketAddr>, config: &DnsConfig) -> Result<Self, DnsError> {
        let mut options = ResolverOpts::default();
        options.attempts = config.attempts.saturating_sub(1);
        options.timeout = config.timeout;
        options.case_randomization = false;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.edns_payload_len = LARGE_ANSWER;
        let all = addresses.into_iter().map(|address| Server::new(address, &options));
        let attempts = u32::try_from(config.attempts).unwrap_or(u32::MAX);
        Ok(Self { all: all.collect::<Result<_, _>>()?, patience: config.timeout.saturating_mul(attempts) })
    }

    /// What the first to know, or to know that there is nothing, says of `name`; else why the first of them failed.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        let mut waiting = self.all.iter();
        let mut asked = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if let Some(server) = waiting.next() {
                asked.push(server.ask(name, kind, self.patience));
            }
            let ended = match waiting.len() {
                0 => asked.next().await,
                // None has answered yet: the next is asked beside them.
                _ => match timeout(HEAD_START, asked.next()).await {
                    Some(ended) => ended,
                    None => continue,
                },
            };
            match ended {
                Some(Err(error)) if !error.is_no_records_found() => {
                    failure.get_or_insert(error);
                }
                Some(answer) => return answer,
                None => return Err(failure.unwrap_or(NetError::NoConnections)),
            }
        }
    }
}

impl Server {
    fn new(address: SocketAddr, options: &ResolverOpts) -> Result<Self, DnsError> {
        let with_edns = |edns0| {
            let mut options = options.clone();
            options.edns0 = edns0;
            let config = ResolverConfig::from_name_servers(vec![name_server(address)]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options)
                .build()
                .map_err(|error| DnsError::Setup(error.to_string()))
        };
        Ok(Self { plain: with_edns(false)?, large: with_edns(true)? })
    }

    async fn ask(&self, name: &Name, kind: RecordType, patience: Duration) -> Result<Lookup, NetError> {
        let ask = async |resolver: &TokioResolver| {
            timeout(patience, resolver.lookup(name.clone(), kind)).await.unwrap_or(Err(NetError::Timeout))
        };
        match ask(&self.plain).await {
            // Neither silence nor a refusal: an answer that was cut, or TCP, which such an answer asks for, refused.
            Err(error) if !matches!(error, NetError::Timeout | NetError::Dns(_)) => ask(&self.large).await,
            answer => answer,
        }
    }
}

pub(super) fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}
