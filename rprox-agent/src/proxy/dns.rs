//! What upstream names resolve to.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::config::DnsConfig;
use super::upstream::Upstream;

/// Why a name has no endpoints.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    /// Stub.
    #[error("stub")]
    Stub,
}

/// A worker's view of DNS: the endpoints of every name in use, kept fresh in the background.
#[derive(Clone)]
pub struct Names {}

impl Names {
    /// A view that knows nothing yet. `on_gone` is told of addresses that left an upstream's answer.
    ///
    /// # Errors
    ///
    /// When `/etc/resolv.conf` is needed and can't be read.
    pub fn new(
        config: &DnsConfig,
        on_gone: impl Fn(&Upstream, &[SocketAddr]) + 'static,
    ) -> Result<Self, DnsError> {
        let _ = on_gone;
        todo!("{config:?}")
    }

    /// The endpoints of `upstream`: at once when they are known, else by a look-up that all who wait share. Runs on a
    /// `LocalSet`.
    ///
    /// # Errors
    ///
    /// When the name does not resolve.
    pub async fn endpoints(&self, upstream: &Arc<Upstream>) -> Result<Rc<[SocketAddr]>, DnsError> {
        todo!("{upstream:?}")
    }

    /// The endpoints of `upstream` by a fresh look-up, for after a failed connection.
    ///
    /// # Errors
    ///
    /// When the name does not resolve and no earlier answer serves.
    pub async fn refresh(&self, upstream: &Arc<Upstream>) -> Result<Rc<[SocketAddr]>, DnsError> {
        todo!("{upstream:?}")
    }
}
