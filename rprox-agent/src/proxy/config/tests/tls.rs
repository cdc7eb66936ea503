//! TLS and ACME.

use super::*;

#[test]
fn mistakes_about_tls_and_acme_have_their_line_and_reason() {
    let route = "[[route]]\nhost = 'a.example.com'\nupstream = 'web:80'\n";
    for (toml, expected) in [
        ("tls = 'off'\n", "rprox.toml:1:7: \"off\" is not a way of TLS"),
        ("[tls]\nmin_version = '1.1'\n", "rprox.toml:2:15: unknown value `1.1`"),
        ("hsts = '1 year'\n", "rprox.toml:1:8: \"1 year\" is not a duration"),
        (&format!("{route}client_ca = 'none.pem'\n"), "rprox.toml:4:13: none.pem: No such file"),
        (&format!("{route}client_ca = 'a.key'\n"), "rprox.toml:4:13: a.key: no certificate in it"),
        (&format!("{route}client_crl = 'a.crl'\n"), "rprox.toml:4:14: client_crl needs client_ca"),
        (
            &format!("{route}client_ca = 'a.crt'\nclient_crl = 'none.pem'\n"),
            "rprox.toml:5:14: none.pem: No such file",
        ),
        (
            &format!("{route}client_ca = 'a.crt'\nclient_crl = 'a.crt'\n"),
            "rprox.toml:5:14: a.crt: no revocation list in it; a PEM file with the revocation lists (CRLs) of",
        ),
        (&format!("{route}client_cert = 'require'\n"), "rprox.toml:4:15: client_cert needs client_ca"),
        (
            &format!("{route}client_ca = 'a.crt'\nclient_cert = 'maybe'\n"),
            "rprox.toml:5:15: \"maybe\" is neither",
        ),
        (&format!("{route}[acme]\n"), "rprox.toml:4:1: missing field `agree_terms`"),
        (
            &format!("{route}[acme]\nagree_terms = false\n"),
            "rprox.toml:5:15: a certificate is issued to those",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\ndirectory = 'http://x/dir'\n"),
            "rprox.toml:6:13: \"http://x/dir\" is not an ACME directory",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\nhosts = ['*.example.com']\n"),
            "rprox.toml:6:10: \"*.example.com\" can't have a certificate by ACME",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\nhosts = ['../../etc']\n"),
            "rprox.toml:6:10: \"../../etc\" can't have",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\ncontact = 'nobody'\n"),
            "rprox.toml:6:11: \"nobody\" is not an e-mail address",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\nchallenge = 'dns-01'\n"),
            "rprox.toml:6:13: unknown value `dns-01`",
        ),
        (
            &format!("{route}[acme]\nagree_terms = true\neab_kid = 'x'\n"),
            "rprox.toml:6:11: eab_kid needs eab_key",
        ),
        (&format!("{route}[acme]\nagree_terms = true\nca = 'none'\n"), "rprox.toml:6:6: none: No such file"),
    ] {
        let error = load(toml, &[]).expect_err(toml);
        assert!(error.starts_with(expected), "{toml}\nexpected: {expected}\nand got:  {error}");
    }
}

#[test]
fn certificates_by_acme_are_for_exact_hosts_that_have_none() {
    let toml = "state = 'kept'\n[acme]\nagree_terms = true\ncontact = ['a@example.com', 'mailto:b@example.com']\n\
                [[certificate]]\ncert = 'a.crt'\nkey = 'a.key'\n\
                [[route]]\nhost = 'a.example.com'\nupstream = 'web:80'\n\
                [[route]]\nhost = 'B.example.com.'\nupstream = 'web:80'\n\
                [[route]]\nhost = 'b.example.com'\npath = '/x'\nupstream = 'web:80'\n\
                [[route]]\nhost = '*.example.com'\nupstream = 'web:80'\n\
                [[route]]\nhost = '192.0.2.1'\nupstream = 'web:80'\n\
                [[route]]\nhost = 'localhost'\nupstream = 'web:80'\n";
    let acme = load(toml, &[]).unwrap().acme.unwrap();
    assert_eq!(acme.hosts, ["b.example.com"]);
    assert_eq!(acme.contacts, ["mailto:a@example.com", "mailto:b@example.com"]);
    assert_eq!(acme.challenges, [AcmeChallenge::TlsAlpn01, AcmeChallenge::Http01]);
    assert!(acme.files("b.example.com").cert.ends_with("kept/certificates/b.example.com.pem"));
}

#[test]
fn certificates_of_any_kind_make_it_listen_for_https() {
    let route = "[[route]]\nhost = 'a.example.com'\nupstream = 'web:80'\n";
    for toml in [
        format!("tls = 'self-signed'\n{route}"),
        format!("[tls]\nself_signed = true\n{route}"),
        format!("state = 'kept'\n[acme]\nagree_terms = true\n{route}"),
    ] {
        assert_eq!(load(&toml, &[]).unwrap().listen.https, ["[::]:8443".parse().unwrap()], "{toml}");
    }
}
