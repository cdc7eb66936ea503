//! Plain HTTP for hosts whose TLS is passed through, and requests that come by TLS of ours.

use std::net::SocketAddr;

use super::route;
use crate::agent::{Agent, free_address};
use crate::client::{ask_over_tls, get};
use crate::upstream::Upstream;

fn agent(more: &str) -> Agent {
    let upstream: SocketAddr = free_address();
    let ours = Upstream::mirror();
    let beside = format!(
        "[[route]]\nhost = \"other.example\"\npath = \"/.well-known/acme-challenge\"\nupstream = \"{}\"\n\
         https_redirect = false\n",
        ours.address
    );
    let passed = route("other.example", upstream);
    Agent::start(&[("secure.example", &ours.address.to_string())], &format!("{passed}{more}\n{beside}"))
}

#[test]
fn plain_http_is_redirected_but_for_what_has_a_route_of_its_own() {
    let agent = agent("");
    let reply = get(&agent, "other.example", "/x");
    assert_eq!((reply.status(), reply.field("location")), (301, Some("https://other.example/x")));
    let reply = get(&agent, "other.example", "/.well-known/acme-challenge/token");
    assert_eq!(reply.status(), 200);
    agent.metrics_with(&[r#"rprox_requests_total{route="other.example",code="3xx"} 1"#]);
}

#[test]
fn without_a_redirect_plain_http_finds_nothing() {
    let agent = agent("https_redirect = false");
    assert_eq!(get(&agent, "other.example", "/x").status(), 404);
    assert_eq!(get(&agent, "other.example", "/.well-known/acme-challenge/token").status(), 200);
}

#[test]
fn over_tls_of_ours_a_request_for_such_a_host_is_misdirected() {
    // The certificate is for both names, so a client may well ask for one on the other's connection.
    let agent = agent("");
    for path in ["/", "/.well-known/acme-challenge/token"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: other.example\r\n\r\n");
        assert_eq!(ask_over_tls(&agent, "secure.example", &request).status(), 421, "{path}");
    }
}
