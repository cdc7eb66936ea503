//! Names that are no upstream's, such as an ACME server's: by `/etc/hosts` and the servers of `/etc/resolv.conf`.
//!
//! Not by the C library's `getaddrinfo`: the agent is linked statically, and what `/etc/nsswitch.conf` may name beside files
//! and DNS, the library would load at run time, which such a program can't.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec::IntoIter;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::DnsError;
use super::resolver::system_servers;
use super::servers::name_server;

/// How long a server may take for an answer, which it is asked for twice.
const PATIENCE: Duration = Duration::from_secs(2);

type Failure = Box<dyn Error + Send + Sync>;

/// Looks names up for hyper's client, each time by what the files then say.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Service<Name> for SystemNames {
    type Response = IntoIter<SocketAddr>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let mut failure: Option<Failure> = None;
            // In their order, until one knows: another may be broken, or refuse.
            for server in system_servers()? {
                match resolver(server)?.lookup_ip(name.as_str()).await {
                    Ok(found) => {
                        // The port is the URL's.
                        let found = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>();
                        return Ok(found.into_iter());
                    }
                    Err(error) if error.is_no_records_found() => return Err(error.into()),
                    Err(error) => failure = failure.or(Some(error.into())),
                }
            }
            Err(failure.unwrap_or_else(|| DnsError::NoServers.into()))
        })
    }
}

fn resolver(server: SocketAddr) -> Result<TokioResolver, Failure> {
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Always;
    options.case_randomization = false;
    options.timeout = PATIENCE;
    options.attempts = 1;
    let config = ResolverConfig::from_name_servers(vec![name_server(server)]);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    Ok(builder.with_options(options).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn localhost_is_found_without_a_server() {
        let found = SystemNames.call("localhost".parse().unwrap()).await.unwrap();
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
    }
}
