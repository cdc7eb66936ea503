//! Which upstream serves a host and path.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use super::upstream::Upstream;

/// The hosts of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(String),
    /// `*.` and this: any one label before it.
    Wildcard(String),
    /// `*`: any host that no other route has.
    Any,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum UpstreamTemplate {
    /// To one upstream.
    Plain(Arc<Upstream>),
    /// To the upstream of what the wildcard stands for; nothing else is reached.
    Template(HashMap<String, Arc<Upstream>>),
}

/// A host and path prefix with the upstream that serves it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The hosts it is for.
    pub host: HostPattern,
    /// The path prefix, starting with a slash and ending without one (but for `/` itself).
    pub path: String,
    /// Where it leads.
    pub upstream: UpstreamTemplate,
    /// Whether plain HTTP is redirected to HTTPS, where a certificate covers the host.
    pub https_redirect: bool,
    /// `host/path`, for logs.
    pub label: String,
}

/// All routes, arranged so that a look-up costs the same for one as for ten thousand.
#[derive(Debug)]
pub struct RouteTable {}

/// What a request's host and path led to.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// The upstream, a template's being filled in.
    pub upstream: &'a Arc<Upstream>,
}

impl RouteTable {
    /// Arranges `routes`.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        todo!("{routes:?}")
    }

    /// The route of a [normalised](super::host::normalise) host and a path.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<Match<'_>> {
        todo!("{host}{path}")
    }
}
