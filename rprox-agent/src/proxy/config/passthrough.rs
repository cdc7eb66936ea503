//! Routes whose TLS is passed through: what they can't have, and what can't be beside them.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::error::{Mistake, Place};
use super::routes::WrittenRoute;
use crate::proxy::route::{Route, RouteTls};

const IS_IN_REQUESTS: &str = "it is about requests, which only the upstream can read";
const IS_THE_UPSTREAMS: &str = "certificates are the upstream's business";

impl WrittenRoute {
    /// Refuses what has no meaning for a route that passes TLS through.
    pub(super) fn check_passthrough(&self) -> Result<(), Mistake> {
        let Some(tls) = self.tls.as_ref().filter(|tls| tls.value == RouteTls::Passthrough) else {
            return Ok(());
        };
        let (ca, crl, cert) = (&self.client_auth.ca, &self.client_auth.crl, &self.client_auth.cert);
        let whole = Some(&tls.place);
        let written = [
            ("path", self.path.as_ref().map(|path| &path.place), IS_IN_REQUESTS),
            ("sticky", whole.filter(|_| self.sticky.is_some()), IS_IN_REQUESTS),
            ("hsts", whole.filter(|_| self.hsts.is_some()), IS_IN_REQUESTS),
            ("upgrade", whole.filter(|_| self.upgrade.is_some()), IS_IN_REQUESTS),
            ("timeouts.response and .body", whole.filter(|_| self.timeouts.is_of_requests()), IS_IN_REQUESTS),
            (
                "health",
                whole.filter(|_| self.health.is_some()),
                "it is asked for by a request; endpoints that take no connection are left out without it",
            ),
            ("cert", self.cert.as_ref().map(|cert| &cert.place), IS_THE_UPSTREAMS),
            ("key", self.key.as_ref().map(|key| &key.place), IS_THE_UPSTREAMS),
            ("client_ca", ca.as_ref().map(|ca| &ca.place), IS_THE_UPSTREAMS),
            ("client_crl", crl.as_ref().map(|crl| &crl.place), IS_THE_UPSTREAMS),
            ("client_cert", cert.as_ref().map(|cert| &cert.place), IS_THE_UPSTREAMS),
        ];
        for (key, place, reason) in written {
            if let Some(place) = place {
                let message = format!("a route with tls = \"passthrough\" can't have {key}: {reason}");
                return Err(Mistake::new(place.clone(), message));
            }
        }
        match self.upstream.value.iter().find(|upstream| upstream.to.value.contains("://")) {
            Some(upstream) => Err(upstream.to.mistake(format!(
                "{:?}: what is passed through has no scheme, and is encrypted already; write NAME:PORT",
                upstream.to.value
            ))),
            None => Ok(()),
        }
    }
}

/// Of routes beside one that passes their host's TLS through, those that look as if they were for requests over TLS.
pub(super) fn unreached(routes: &[(Route, Place)]) -> Vec<Mistake> {
    let passthrough = routes.iter().filter(|(route, _)| route.is_passthrough());
    let passed: HashSet<_> = passthrough.map(|(route, _)| &route.host).collect();
    let beside = routes.iter().filter(|(route, _)| !route.is_passthrough() && passed.contains(&route.host));
    let unreached = beside.filter(|(route, _)| route.https_redirect);
    unreached
        .map(|(Route { host, .. }, place)| {
            let message = format!(
                "TLS for {host} is passed through by another route, so that no request over it comes to this one; if it is \
                 for plain HTTP alone, let it say https_redirect = false"
            );
            Mistake::new(place.clone(), message)
        })
        .collect()
}
