//! Routes for clients with a certificate only, and what their upstreams are told of it.

#![forbid(unsafe_code)]

use http::{HeaderMap, StatusCode};

use crate::proxy::connection::client::Client;
use crate::proxy::route::Route;
use crate::proxy::tls::identity::{self, ClientIdentity};

/// Whether `route` serves this client a request for `host`.
///
/// A certificate counts on a connection that was opened for `host` alone: by HTTP/2 a client may ask for other hosts on it too,
/// for which it might have shown another, or none.
///
/// # Errors
///
/// With what to answer otherwise: 421 where another connection may do, 403 where it would not.
pub fn check(client: &Client, route: &Route, host: &str) -> Result<(), (StatusCode, &'static str)> {
    let Some(auth) = &route.client_auth else { return Ok(()) };
    let Some(secured) = &client.secure else {
        let reason = "this service is for clients with a certificate, by HTTPS";
        return if auth.required { Err((StatusCode::FORBIDDEN, reason)) } else { Ok(()) };
    };
    if secured.asked_for.as_deref() != Some(host) {
        let reason = "this service asks for client certificates: open a connection for its host";
        return Err((StatusCode::MISDIRECTED_REQUEST, reason));
    }
    match (&secured.identity, auth.required) {
        (Some(identity), true) if !identity.satisfies(&auth.ca) => {
            Err((StatusCode::FORBIDDEN, "this client certificate is not for this service, or not any more"))
        }
        (None, true) => Err((StatusCode::FORBIDDEN, "this service is for clients with a certificate")),
        _ => Ok(()),
    }
}

/// Replaces what the client says of its certificate by what we know.
pub fn apply(client: &Client, route: &Route, headers: &mut HeaderMap) {
    identity::remove_claims(headers, route.client_auth.is_some());
    if let Some(identity) = identity_for(client, route) {
        identity.apply(headers);
    }
}

fn identity_for<'a>(client: &'a Client, route: &Route) -> Option<&'a ClientIdentity> {
    let auth = route.client_auth.as_ref()?;
    let identity = client.secure.as_ref()?.identity.as_ref()?;
    identity.satisfies(&auth.ca).then_some(identity)
}
