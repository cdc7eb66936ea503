//! Routes whose TLS is passed through.

use super::*;
use crate::proxy::route::RouteTls;

const ROUTE: &str = "[[route]]\nhost = 'a.example.com'\ntls = 'passthrough'\nupstream = 'web:443'\n";

#[test]
fn a_route_that_passes_through_needs_no_certificate_to_listen_for_https() {
    let toml = format!(
        "hsts = '1y'\n{ROUTE}proxy_protocol = 'v2'\nbalance = 'round-robin'\ntimeouts.connect = '1s'\n"
    );
    let config = load(&toml, &[]).unwrap();
    assert_eq!(config.listen.https, ["[::]:8443".parse().unwrap()]);
    let route = &config.routes[0];
    assert_eq!(
        (route.tls, route.label.as_str(), &route.hsts),
        (RouteTls::Passthrough, "a.example.com", &None)
    );
    assert_eq!(leads(&config, "a.example.com"), "web.Some(443)");
    let terminates = load("[[route]]\nhost = 'a.example.com'\ntls = 'terminate'\nupstream = 'web:80'\n", &[]);
    assert_eq!(terminates.unwrap().routes[0].tls, RouteTls::Terminate);
}

#[test]
fn hosts_that_are_passed_through_get_no_certificate() {
    let toml = format!(
        "state = 'kept'\n[acme]\nagree_terms = true\n{ROUTE}\
         [[route]]\nhost = 'a.example.com'\npath = '/.well-known/acme-challenge'\nupstream = 'web:80'\nhttps_redirect = false\n\
         [[route]]\nhost = 'b.example.com'\nupstream = 'web:80'\n"
    );
    assert_eq!(load(&toml, &[]).unwrap().acme.unwrap().hosts, ["b.example.com"]);
}

#[test]
fn what_has_no_meaning_where_tls_is_passed_through_is_refused_with_its_place_and_reason() {
    for (more, expected) in [
        (
            "path = '/x'\n",
            "rprox.toml:5:8: a route with tls = \"passthrough\" can't have path: it is about requests",
        ),
        (
            "sticky = {}\n",
            "rprox.toml:3:7: a route with tls = \"passthrough\" can't have sticky: it is about requests",
        ),
        ("hsts = '1y'\n", "rprox.toml:3:7: a route with tls = \"passthrough\" can't have hsts"),
        ("upgrade = []\n", "rprox.toml:3:7: a route with tls = \"passthrough\" can't have upgrade"),
        ("timeouts.body = '1s'\n", "rprox.toml:3:7: a route with tls = \"passthrough\" can't have timeouts"),
        (
            "health.path = '/'\n",
            "rprox.toml:3:7: a route with tls = \"passthrough\" can't have health: it is asked",
        ),
        (
            "cert = 'a.crt'\nkey = 'a.key'\n",
            "rprox.toml:5:8: a route with tls = \"passthrough\" can't have cert",
        ),
        ("client_ca = 'a.crt'\n", "rprox.toml:5:13: a route with tls = \"passthrough\" can't have client_ca"),
        (
            "client_crl = 'a.crl'\n",
            "rprox.toml:5:14: a route with tls = \"passthrough\" can't have client_crl",
        ),
        (
            "client_cert = 'optional'\n",
            "rprox.toml:5:15: a route with tls = \"passthrough\" can't have client_cert",
        ),
    ] {
        let error = load(&format!("{ROUTE}{more}"), &[]).expect_err(more);
        assert!(error.starts_with(expected), "{more}\nexpected: {expected}\nand got:  {error}");
    }
    for upstream in ["https://web:443", "h2c://web:443", "http://web:443"] {
        let error = load(&ROUTE.replace("web:443", upstream), &[]).expect_err(upstream);
        let expected = format!("rprox.toml:4:12: {upstream:?}: what is passed through has no scheme");
        assert!(error.starts_with(&expected), "{error}");
    }
    let error = load(&ROUTE.replace("passthrough", "passthru"), &[]).unwrap_err();
    assert!(error.starts_with("rprox.toml:3:7: unknown value `passthru`"), "{error}");
}

#[test]
fn beside_a_route_that_passes_through_are_only_those_for_plain_http() {
    let beside = "[[route]]\nhost = 'A.example.com'\npath = '/x'\nupstream = 'web:80'\n";
    for toml in [format!("{ROUTE}{beside}"), format!("{beside}{ROUTE}")] {
        let error = load(&toml, &[]).unwrap_err();
        assert!(error.contains("TLS for a.example.com is passed through by another route"), "{error}");
    }
    assert!(load(&format!("{ROUTE}{beside}https_redirect = false\n"), &[]).is_ok());
    let error = load(&format!("{ROUTE}{ROUTE}"), &[]).unwrap_err();
    assert_eq!(error, "rprox.toml:6:8: TLS for a.example.com is passed through already");
}
