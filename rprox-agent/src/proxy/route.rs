//! Which upstream serves a host and path.
//!
//! The most specific route wins: of the hosts, an exact one before a wildcard before `*`; then, of that host's routes, the one
//! with the longest path. The host decides first: where a host has routes and none is for the path, there is no route, even
//! if a wildcard or `*` has one. So what is set up for a host is all that it serves.
//!
//! A host whose TLS is passed through is found in the same way, by the name that the client asks for, and has no path.

#![forbid(unsafe_code)]

pub mod guard;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use foldhash::HashMap;
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::guard::Guard;
use super::host;
use super::tls::client_auth::ClientAuth;
use super::upstream::Upstream;
use super::upstream::set::UpstreamSet;

/// The hosts of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host, normalised.
    Exact(String),
    /// `*.` and this, normalised: any one label before it, as in certificates (RFC 9525 section 6.3).
    Wildcard(String),
    /// `*`: any host that no other route has.
    Any,
}

impl HostPattern {
    /// Reads `example.com`, `*.example.com` or `*`. `None` when it is none of these, or has a port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (is_wildcard, host) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let after_host = host.rfind(']').map_or(0, |bracket| bracket + 1);
        if host[after_host..].contains(':') || (is_wildcard && after_host > 0) {
            return None;
        }
        let host = host::normalise(host)?.into_owned();
        Some(if is_wildcard { Self::Wildcard(host) } else { Self::Exact(host) })
    }

    /// Whether `host`, which is normalised, is one of them.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(one) => one == host,
            Self::Wildcard(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => formatter.write_str(host),
            Self::Wildcard(domain) => write!(formatter, "*.{domain}"),
            Self::Any => formatter.write_str("*"),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum UpstreamTemplate {
    /// To these.
    Plain(Arc<UpstreamSet>),
    /// To those of the label that the wildcard stands for, made beforehand for each allowed label; nothing else is reached.
    Template(HashMap<String, Arc<UpstreamSet>>),
}

impl UpstreamTemplate {
    /// All that it can lead to.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<UpstreamSet>> {
        let (plain, template) = match self {
            Self::Plain(set) => (Some(set), None),
            Self::Template(allowed) => (None, Some(allowed.values())),
        };
        plain.into_iter().chain(template.into_iter().flatten())
    }

    /// Each upstream that it can lead to.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.sets().flat_map(|set| &set.upstreams).map(|weighted| &weighted.upstream)
    }
}

/// Whose business the TLS of a route's clients is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    /// Ours: we show a certificate, and the upstream gets requests.
    #[default]
    Terminate,
    /// The upstream's: it gets the client's bytes as they are.
    Passthrough,
}

/// A host and path prefix with the upstream that serves it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The hosts it is for.
    pub host: HostPattern,
    /// The path prefix, starting with a slash and ending without one (but for `/` itself). It matches whole segments: `/api`
    /// is for `/api` and `/api/x`, not for `/apix`.
    pub path: String,
    /// Whose business TLS is. Where it is passed through there is no path.
    pub tls: RouteTls,
    /// Where it leads.
    pub upstream: UpstreamTemplate,
    /// Whether plain HTTP is redirected to HTTPS, where the host is served by that.
    pub https_redirect: bool,
    /// Whose certificates its clients must or may have.
    pub client_auth: Option<ClientAuth>,
    /// `Strict-Transport-Security` of its responses over HTTPS.
    pub hsts: Option<HeaderValue>,
    /// The protocols that a client's connection may be upgraded to, in lower case.
    pub upgrade: Cow<'static, [String]>,
    /// `host/path` for logs, or the host alone where TLS is passed through.
    pub label: String,
}

impl Route {
    /// Whether TLS is passed through.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        self.tls == RouteTls::Passthrough
    }
}

/// The hosts of `routes` whose TLS is terminated here; one comes as often as it has routes.
pub fn terminated(routes: &[Arc<Route>]) -> impl Iterator<Item = &HostPattern> {
    let passthrough = routes.iter().filter(|route| route.is_passthrough());
    let passed: HashSet<_> = passthrough.map(|route| &route.host).collect();
    routes.iter().map(|route| &route.host).filter(move |host| !passed.contains(host))
}

/// All routes, arranged so that a look-up costs the same for one as for ten thousand.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Paths>,
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
    upstreams: foldhash::HashSet<Arc<Upstream>>,
    /// Whether any host's TLS is passed through.
    passes_through: bool,
}

/// What a request's host and path led to.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Its place among all.
    pub place: usize,
    /// Its upstreams, a template's being filled in.
    pub upstreams: &'a Arc<UpstreamSet>,
    /// Whether TLS for the host is passed through, so that a request over TLS of ours is not for it.
    pub is_passed_through: bool,
    /// The host's routes for clients with a certificate, if there are any.
    pub guard: Option<&'a Guard>,
}

impl RouteTable {
    /// Arranges `routes`. Of two with the same host and path, which a [`Config`](super::config::Config) never has, the later
    /// one is kept.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let mut table = Self::default();
        for (place, route) in routes.into_iter().enumerate() {
            table.upstreams.extend(route.upstream.all().cloned());
            table.passes_through |= route.is_passthrough();
            let paths = match &route.host {
                HostPattern::Exact(host) => table.exact.entry(host.as_str().into()).or_default(),
                HostPattern::Wildcard(domain) => table.wildcard.entry(domain.as_str().into()).or_default(),
                HostPattern::Any => &mut table.any,
            };
            paths.insert(place, route);
        }
        let hosts = table.exact.values_mut().chain(table.wildcard.values_mut());
        hosts.chain([&mut table.any]).for_each(Paths::set_guard);
        table
    }

    /// All upstreams that routes lead to, in no particular order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.iter().map(Arc::as_ref)
    }

    /// Whether any route leads to `upstream`.
    #[must_use]
    pub fn leads_to(&self, upstream: &Upstream) -> bool {
        self.upstreams.contains(upstream)
    }

    /// The route of a [normalised](host::normalise) host and a path, which is taken as the request has it: neither decoded
    /// nor rid of `..`, as a route decides who answers. Who may ask, the host's [`Guard`] has a say in too.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<Match<'_>> {
        let (label, paths) = self.paths(host);
        paths.lead(paths.find(path).or(paths.passthrough.as_ref())?, label)
    }

    /// The route by which TLS for a [normalised](host::normalise) host is passed through, if it is.
    #[must_use]
    pub fn passthrough(&self, host: &str) -> Option<Match<'_>> {
        let (label, paths) = self.paths(host);
        paths.lead(paths.passthrough.as_ref()?, label)
    }

    /// Whether any host's TLS is passed through.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.passes_through
    }

    /// The routes of `host`, and its first label, which a wildcard stands for.
    fn paths<'a>(&self, host: &'a str) -> (&'a str, &Paths) {
        if let Some(paths) = self.exact.get(host) {
            return ("", paths);
        }
        let (label, domain) = host.split_once('.').unwrap_or((host, ""));
        (label, self.wildcard.get(domain).unwrap_or(&self.any))
    }
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Paths {
    /// The one for `/`, which is all that most hosts have.
    root: Option<(usize, Arc<Route>)>,
    /// By path without trailing slash.
    below: HashMap<Box<str>, (usize, Arc<Route>)>,
    /// The longest path's bytes: nothing beyond it is worth looking at, however long a path a client sends.
    longest: usize,
    /// Where its TLS is passed through to.
    passthrough: Option<(usize, Arc<Route>)>,
    guard: Option<Box<Guard>>,
}

impl Paths {
    fn insert(&mut self, place: usize, route: Arc<Route>) {
        if route.is_passthrough() {
            self.passthrough = Some((place, route));
            return;
        }
        let path = route.path.trim_end_matches('/');
        if path.is_empty() {
            self.root = Some((place, route));
            return;
        }
        self.longest = self.longest.max(path.len());
        self.below.insert(path.into(), (place, route));
    }

    fn set_guard(&mut self) {
        self.guard = Guard::of(self.below.values().chain(&self.root));
    }

    fn find(&self, path: &str) -> Option<&(usize, Arc<Route>)> {
        let bytes = path.as_bytes();
        let mut end =
            if bytes.len() <= self.longest { bytes.len() } else { segment_end(&bytes[..=self.longest]) };
        while end > 0 {
            if let Some(route) = self.below.get(&path[..end]) {
                return Some(route);
            }
            end = segment_end(&bytes[..end]);
        }
        self.root.as_ref()
    }

    /// What a route of these leads to for a host with this first label.
    fn lead<'a>(&'a self, (place, route): &'a (usize, Arc<Route>), label: &str) -> Option<Match<'a>> {
        let upstreams = match &route.upstream {
            UpstreamTemplate::Plain(upstreams) => upstreams,
            UpstreamTemplate::Template(allowed) => allowed.get(label)?,
        };
        let (is_passed_through, guard) = (self.passthrough.is_some(), self.guard.as_deref());
        Some(Match { route, place: *place, upstreams, is_passed_through, guard })
    }
}

/// Where the segment before the last slash ends.
fn segment_end(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(upstream: &str) -> Arc<UpstreamSet> {
        Arc::new(UpstreamSet::of(Upstream::parse(upstream, None).unwrap()))
    }

    fn route(host: &str, path: &str, upstream: &str) -> Arc<Route> {
        Arc::new(Route {
            host: HostPattern::parse(host).unwrap(),
            path: path.to_owned(),
            tls: RouteTls::Terminate,
            upstream: UpstreamTemplate::Plain(set(upstream)),
            https_redirect: true,
            client_auth: None,
            hsts: None,
            upgrade: Cow::default(),
            label: format!("{host}{path}"),
        })
    }

    fn template(host: &str, allow: &[&str]) -> Arc<Route> {
        let upstreams =
            allow.iter().map(|label| ((*label).to_owned(), set(&format!("{label}:3000")))).collect();
        let route = Arc::unwrap_or_clone(route(host, "/", "unused:1"));
        Arc::new(Route { upstream: UpstreamTemplate::Template(upstreams), ..route })
    }

    fn find<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
        table.find(host, path).map(|found| found.upstreams.label.as_str())
    }

    #[test]
    fn exact_hosts_win_over_wildcards_over_the_default() {
        let table = RouteTable::new(vec![
            route("*", "/", "default:1"),
            route("*.example.com", "/", "wildcard:1"),
            route("a.example.com", "/", "exact:1"),
        ]);
        assert_eq!(find(&table, "a.example.com", "/"), Some("exact:1"));
        assert_eq!(find(&table, "b.example.com", "/"), Some("wildcard:1"));
        assert_eq!(find(&table, "example.com", "/"), Some("default:1"), "a wildcard needs a label");
        assert_eq!(find(&table, "x.b.example.com", "/"), Some("default:1"), "a wildcard is one label");
        assert_eq!(find(&table, "localhost", "/"), Some("default:1"));
        assert_eq!(find(&table, "[::1]", "/"), Some("default:1"));
    }

    #[test]
    fn without_a_default_an_unknown_host_has_no_route() {
        let table = RouteTable::new(vec![route("a.example.com", "/", "exact:1")]);
        assert_eq!(find(&table, "b.example.com", "/"), None);
        assert_eq!(find(&table, "", "/"), None);
    }

    #[test]
    fn the_longest_path_wins_on_whole_segments() {
        let table = RouteTable::new(vec![
            route("a", "/", "root:1"),
            route("a", "/api", "api:1"),
            route("a", "/api/v2", "v2:1"),
        ]);
        for (path, upstream) in [
            ("/", "root:1"),
            ("*", "root:1"),
            ("", "root:1"),
            ("/apix", "root:1"),
            ("/ap", "root:1"),
            ("/api", "api:1"),
            ("/api/", "api:1"),
            ("/api/v1/users", "api:1"),
            ("/api/v22", "api:1"),
            ("/api/v2", "v2:1"),
            ("/api/v2/users", "v2:1"),
            ("/\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}", "root:1"),
        ] {
            assert_eq!(find(&table, "a", path), Some(upstream), "{path}");
        }
    }

    #[test]
    fn a_host_with_routes_serves_those_and_no_others() {
        let table =
            RouteTable::new(vec![route("a.example.com", "/api", "api:1"), route("*", "/", "default:1")]);
        assert_eq!(find(&table, "a.example.com", "/other"), None);
    }

    #[test]
    fn templates_reach_what_they_allow() {
        let table = RouteTable::new(vec![
            template("*.pods.example.com", &["grafana", "wiki"]),
            route("*", "/", "default:1"),
        ]);
        assert_eq!(find(&table, "grafana.pods.example.com", "/d/1"), Some("grafana:3000"));
        assert_eq!(find(&table, "secret.pods.example.com", "/"), None);
    }

    fn passthrough(host: &str, upstream: &str) -> Arc<Route> {
        let route = Arc::unwrap_or_clone(route(host, "/", upstream));
        Arc::new(Route { tls: RouteTls::Passthrough, label: host.to_owned(), ..route })
    }

    #[test]
    fn tls_is_passed_through_for_the_most_specific_host_alone() {
        let table = RouteTable::new(vec![
            passthrough("*", "any:443"),
            passthrough("*.example.com", "wildcard:443"),
            passthrough("a.example.com", "exact:443"),
            route("b.example.com", "/", "ours:80"),
        ]);
        let passed = |host| table.passthrough(host).map(|found| found.upstreams.label.as_str());
        assert_eq!(passed("a.example.com"), Some("exact:443"));
        assert_eq!(passed("c.example.com"), Some("wildcard:443"));
        assert_eq!(passed("b.example.com"), None, "terminated here");
        assert_eq!(passed("elsewhere.example"), Some("any:443"));
        assert!(table.passes_through());
        assert!(!RouteTable::new(vec![route("a", "/", "a:80")]).passes_through());
    }

    #[test]
    fn a_request_for_a_host_that_is_passed_through_finds_what_is_beside_it() {
        let table = RouteTable::new(vec![
            passthrough("a", "secure:443"),
            route("a", "/.well-known", "plain:80"),
            route("b", "/", "b:80"),
        ]);
        let find = |host, path| {
            let found = table.find(host, path).unwrap();
            (found.upstreams.label.as_str(), found.route.is_passthrough(), found.is_passed_through)
        };
        assert_eq!(find("a", "/.well-known/acme-challenge/x"), ("plain:80", false, true));
        assert_eq!(find("a", "/other"), ("secure:443", true, true));
        assert_eq!(find("b", "/"), ("b:80", false, false));
    }

    #[test]
    fn hosts_that_are_passed_through_are_not_terminated() {
        let routes = [route("a", "/x", "a:80"), passthrough("a", "a:443"), route("b", "/", "b:80")];
        assert_eq!(terminated(&routes).map(ToString::to_string).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn host_patterns() {
        assert_eq!(HostPattern::parse("*"), Some(HostPattern::Any));
        assert_eq!(HostPattern::parse("A.Example.com."), Some(HostPattern::Exact("a.example.com".into())));
        assert_eq!(HostPattern::parse("*.Example.com"), Some(HostPattern::Wildcard("example.com".into())));
        assert_eq!(HostPattern::parse("[::1]"), Some(HostPattern::Exact("[::1]".into())));
        for bad in ["", "*.", "**", "a.*.com", "*a.com", "a.com:80", "[::1]:80", "*.[::1]", "a b", "*.*.com"]
        {
            assert_eq!(HostPattern::parse(bad), None, "{bad}");
        }
    }
}
