//! Routes as they are written, made into routes that can be followed.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::HashMap;
use toml::Spanned;

use super::error::{Mistake, Place};
use super::file::RouteTable;
use super::flags::FlagRoute;
use super::health::HealthTable;
use super::tls::{ClientCas, Hsts, WrittenClientAuth};
use super::upstreams::{self, AllAuthorities, RouteTimeouts, StickyTable, WrittenUpstream};
use super::{Timeouts, upgrade};
use crate::proxy::host;
use crate::proxy::proxy_protocol;
use crate::proxy::route::{HostPattern, Route, RouteTls, UpstreamTemplate};
use crate::proxy::upstream::set::{Balancing, UpstreamSet};

/// What stands for the wildcard's label in a template.
const LABEL: &str = "{1}";

/// What routes and their upstreams are read by.
pub(super) struct Context<'a> {
    /// The domain of names without a dot.
    pub(super) search: Option<&'a str>,
    /// What files are relative to.
    pub(super) directory: &'a Path,
    /// Time-outs where a route has none of its own.
    pub(super) timeouts: &'a Timeouts,
    /// Whom to believe.
    pub(super) authorities: AllAuthorities,
    /// Who signs clients' certificates.
    pub(super) client_cas: ClientCas,
}

/// A value with the place that it was written at.
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A route of the file or of a flag.
pub(super) struct WrittenRoute {
    pub(super) host: Written<String>,
    pub(super) path: Option<Written<String>>,
    pub(super) upstream: Written<Vec<WrittenUpstream>>,
    pub(super) tls: Option<Written<RouteTls>>,
    pub(super) balance: Balancing,
    pub(super) sticky: Option<StickyTable>,
    pub(super) health: Option<HealthTable>,
    pub(super) timeouts: RouteTimeouts,
    pub(super) allow: Option<Written<Vec<Written<String>>>>,
    pub(super) cert: Option<Written<PathBuf>>,
    pub(super) key: Option<Written<PathBuf>>,
    pub(super) client_auth: WrittenClientAuth,
    pub(super) hsts: Option<Hsts>,
    pub(super) upgrade: Option<Vec<String>>,
    pub(super) proxy_protocol: Option<proxy_protocol::Version>,
    pub(super) https_redirect: bool,
}

impl<T> From<Spanned<T>> for Written<T> {
    fn from(spanned: Spanned<T>) -> Self {
        Self { place: Place::Bytes(spanned.span()), value: spanned.into_inner() }
    }
}

impl<T> Written<T> {
    pub(super) fn mistake(&self, message: impl std::fmt::Display) -> Mistake {
        Mistake::new(self.place.clone(), message)
    }

    /// That the file which it names can't be used.
    pub(super) fn file_mistake(&self, error: &(dyn std::error::Error + 'static)) -> Mistake {
        Mistake::of_file(self.place.clone(), error)
    }
}

impl From<RouteTable> for WrittenRoute {
    fn from(table: RouteTable) -> Self {
        let allow = table.allow.map(|allow| Written {
            place: Place::Bytes(allow.span()),
            value: allow.into_inner().into_iter().map(Written::from).collect(),
        });
        Self {
            host: table.host.into(),
            path: table.path.map(Written::from),
            upstream: upstreams::written(table.upstream),
            tls: table.tls.map(Written::from),
            balance: table.balance,
            sticky: table.sticky,
            health: table.health,
            timeouts: table.timeouts,
            allow,
            cert: table.cert.map(Written::from),
            key: table.key.map(Written::from),
            client_auth: WrittenClientAuth::new(table.client_ca, table.client_crl, table.client_cert),
            hsts: table.hsts,
            upgrade: table.upgrade,
            proxy_protocol: table.proxy_protocol,
            https_redirect: table.https_redirect,
        }
    }
}

impl From<FlagRoute> for WrittenRoute {
    fn from(FlagRoute { flag, host, path, upstream }: FlagRoute) -> Self {
        let written = |value| Written { value, place: Place::Flag(flag.clone()) };
        Self {
            host: written(host),
            path: path.map(written),
            upstream: Written {
                place: Place::Flag(flag.clone()),
                value: vec![WrittenUpstream::from(written(upstream))],
            },
            tls: None,
            balance: Balancing::default(),
            sticky: None,
            health: None,
            timeouts: RouteTimeouts::default(),
            allow: None,
            cert: None,
            key: None,
            client_auth: WrittenClientAuth::default(),
            hsts: None,
            upgrade: None,
            proxy_protocol: None,
            https_redirect: true,
        }
    }
}

impl WrittenRoute {
    /// The host and the path that it is for.
    pub(super) fn matched(&self) -> Result<(HostPattern, String), Mistake> {
        let host = HostPattern::parse(&self.host.value).ok_or_else(|| {
            self.host.mistake(format!(
                "{:?} is not a host; write a name without a port, \"*.\" and a name, or \"*\"",
                self.host.value
            ))
        })?;
        let path = match &self.path {
            Some(path) => parse_path(&path.value).map_err(|reason| path.mistake(reason))?,
            None => "/".to_owned(),
        };
        Ok((host, path))
    }

    /// Whose business its TLS is.
    pub(super) fn tls(&self) -> RouteTls {
        self.tls.as_ref().map_or_else(RouteTls::default, |tls| tls.value)
    }

    /// The route, with what [`matched`](Self::matched) gave.
    pub(super) fn into_route(
        self,
        host: HostPattern,
        path: String,
        hsts: &Hsts,
        context: &mut Context<'_>,
    ) -> Result<Route, Mistake> {
        let client_auth = self.client_auth.read(context.directory, &mut context.client_cas)?;
        let upstream = if self.upstream.value.iter().any(|upstream| upstream.to.value.contains(['{', '}'])) {
            self.template(&host, &path, context)?
        } else {
            if let Some(allow) = &self.allow {
                return Err(allow.mistake("allow is for an upstream with {1} in it; this one has none"));
            }
            UpstreamTemplate::Plain(Arc::new(self.set(str::to_owned, &path, context)?))
        };
        let tls = self.tls();
        let is_passthrough = tls == RouteTls::Passthrough;
        Ok(Route {
            label: if is_passthrough { host.to_string() } else { format!("{host}{path}") },
            host,
            path,
            tls,
            upstream,
            upgrade: self.upgrade.map_or_else(upgrade::default, Cow::Owned),
            https_redirect: self.https_redirect,
            client_auth,
            hsts: self.hsts.unwrap_or_else(|| hsts.clone()).0.filter(|_| !is_passthrough),
        })
    }

    /// The upstreams, with each text made what `fill` makes of it.
    fn set(
        &self,
        fill: impl Fn(&str) -> String,
        path: &str,
        context: &mut Context<'_>,
    ) -> Result<UpstreamSet, Mistake> {
        let upstreams = self.upstream.value.iter();
        let upstreams = upstreams.map(|upstream| upstream.read(&fill(&upstream.to.value), context));
        let upstreams = upstreams.collect::<Result<Box<[_]>, _>>()?;
        if upstreams.iter().all(|upstream| upstream.weight == 0) {
            return Err(self.upstream.mistake("no upstream with a weight: nothing would be served"));
        }
        let label = upstreams.iter().map(|weighted| weighted.upstream.authority.as_str()).collect::<Vec<_>>();
        Ok(UpstreamSet {
            label: label.join(", "),
            upstreams,
            balance: self.balance,
            sticky: self.sticky.as_ref().map(|sticky| Box::new(sticky.on(path))),
            health: self.health.as_ref().map(|health| Arc::new(health.read())),
            timeouts: self.timeouts.over(context.timeouts),
            proxy_protocol: self.proxy_protocol,
        })
    }

    fn template(
        &self,
        host: &HostPattern,
        path: &str,
        context: &mut Context<'_>,
    ) -> Result<UpstreamTemplate, Mistake> {
        for WrittenUpstream { to, .. } in &self.upstream.value {
            let text = &to.value;
            if text.replace(LABEL, "").contains(['{', '}']) {
                return Err(to.mistake(format!("{text:?}: {{1}} is all that a template can have in braces")));
            }
        }
        let upstream = &self.upstream;
        if !matches!(host, HostPattern::Wildcard(_)) {
            return Err(
                upstream.mistake("{1} stands for what a wildcard host has, and this host has no \"*.\"")
            );
        }
        let Some(allow) = self.allow.as_ref().filter(|allow| !allow.value.is_empty()) else {
            return Err(
                upstream.mistake("an upstream with {1} needs allow, the list of labels that {1} may be")
            );
        };
        let mut sets = HashMap::default();
        for label in &allow.value {
            if !host::is_name(&label.value) || label.value.contains('.') {
                return Err(label.mistake(format!("{:?} is not one label of a host name", label.value)));
            }
            let name = label.value.to_ascii_lowercase();
            let set = self.set(|text| text.replace(LABEL, &name), path, context)?;
            sets.insert(name, Arc::new(set));
        }
        Ok(UpstreamTemplate::Template(sets))
    }
}

/// A path prefix, without its trailing slash.
pub(in crate::proxy) fn parse_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("path {text:?} must start with \"/\""));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return Err(format!("path {text:?} has a character that must be percent-encoded, or a query"));
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!(
            "path {text:?} has a segment \".\" or \"..\", which clients resolve before they ask"
        ));
    }
    let path = text.trim_end_matches('/');
    Ok(if path.is_empty() { "/" } else { path }.to_owned())
}
