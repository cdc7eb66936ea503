//! Names that are no upstream's, such as an ACME server's: by `/etc/hosts` and the servers of `/etc/resolv.conf`.
//!
//! Not by the C library's `getaddrinfo`: the agent is linked statically, and what `/etc/nsswitch.conf` may name beside files
//! and DNS, the library would load at run time, which such a program can't.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::resolver::{name_server, system_servers};

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
            let found = resolver()?.lookup_ip(name.as_str()).await?;
            // The port is the URL's.
            Ok(found.iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

fn resolver() -> Result<TokioResolver, Failure> {
    let servers = system_servers()?.into_iter().map(name_server).collect();
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Always;
    options.case_randomization = false;
    let config = ResolverConfig::from_name_servers(servers);
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
