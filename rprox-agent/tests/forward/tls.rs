//! TLS as clients see it.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::agent::{Agent, PATIENCE};
use crate::client::{ask, ask_over_tls};
use crate::upstream::Upstream;

#[test]
fn hsts_is_said_over_https_alone_and_the_upstream_s_own_wins() {
    let upstream = Upstream::start(|head, stream| {
        let own = if head.contains("/own") { "Strict-Transport-Security: max-age=1\r\n" } else { "" };
        write!(stream, "HTTP/1.1 200 OK\r\n{own}Content-Length: 0\r\n\r\n").unwrap();
        true
    });
    let address = upstream.address.to_string();
    let more = format!(
        "hsts = \"1y; includeSubDomains\"\n[[route]]\nhost = \"secure.example\"\npath = \"/off\"\nhsts = \"off\"\n\
         upstream = \"{address}\""
    );
    let agent = Agent::start(&[("secure.example", &address), ("plain.example", &address)], &more);
    for (path, value) in
        [("/", Some("max-age=31536000; includeSubDomains")), ("/own", Some("max-age=1")), ("/off", None)]
    {
        let reply = ask_over_tls(
            &agent,
            "secure.example",
            &format!("GET {path} HTTP/1.1\r\nHost: secure.example\r\n\r\n"),
        );
        assert_eq!(reply.field("strict-transport-security"), value, "{path}");
    }
    for host in ["secure.example", "plain.example"] {
        let reply = ask(&agent, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(reply.field("strict-transport-security"), None, "{host}");
    }
}

/// What `openssl s_client` says.
fn openssl(agent: &Agent, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .args(["openssl", "s_client", "-connect", &agent.https.to_string(), "-servername", "secure.example"])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl runs");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn openssl_resumes_its_sessions() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    for more in [&[][..], &["-no_ticket"]] {
        let said = openssl(&agent, &[&["-tls1_2", "-reconnect"], more].concat());
        assert_eq!(said.matches("\nReused, TLSv1.2").count(), 5, "{said}");
    }
}

#[test]
fn the_floor_of_tls_versions_holds() {
    let upstream = Upstream::mirror();
    let agent =
        Agent::start(&[("secure.example", &upstream.address.to_string())], "[tls]\nmin_version = \"1.3\"");
    assert!(openssl(&agent, &["-tls1_2"]).contains("alert protocol version"));
    assert!(openssl(&agent, &["-tls1_3"]).contains("New, TLSv1.3"));
}

#[test]
fn a_self_signed_certificate_is_kept_and_told_of() {
    let upstream = Upstream::mirror();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let more = format!("tls = \"self-signed\"\nstate = \"{}\"", state.display());
    let start = || {
        let routes =
            [("try.example", upstream.address.to_string()), ("secure.example", upstream.address.to_string())];
        let routes = routes.each_ref().map(|(host, upstream)| (*host, upstream.as_str()));
        Agent::start(&routes, &more)
    };
    let shown = |agent: &Agent| {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "openssl s_client -connect {} -servername try.example </dev/null 2>/dev/null | \
                 openssl x509 -noout -fingerprint -sha256 -ext subjectAltName",
                agent.https
            ))
            .output()
            .expect("openssl runs");
        String::from_utf8(output.stdout).unwrap()
    };
    let agent = start();
    let first = shown(&agent);
    assert!(first.contains("DNS:try.example") && !first.contains("secure.example"), "{first}");
    let kept = fs::read_to_string(state.join("self-signed.pem")).unwrap();
    assert!(kept.contains("PRIVATE KEY"));
    drop(agent);
    assert_eq!(shown(&start()), first);
}

#[test]
fn handshakes_and_certificates_are_counted() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    openssl(&agent, &["-tls1_2", "-reconnect"]);
    openssl(&agent, &["-tls1_3"]);
    openssl(&agent, &["-servername", "nobody.example"]);
    let wanted = [
        "rprox_tls_handshakes_total{version=\"1.2\"} 6",
        "rprox_tls_handshakes_total{version=\"1.3\"} 1",
        "rprox_tls_sessions_resumed_total 5",
        "rprox_tls_handshakes_failed_total{reason=\"unrecognized_name\"} 1",
        "rprox_acme_orders_total{result=\"issued\"} 0",
    ];
    let metrics = agent.metrics_with(&wanted);
    assert!(
        metrics.contains("\nrprox_tls_certificate_expiry_timestamp_seconds{name=\"secure.example\"} "),
        "{metrics}"
    );
}

#[test]
fn a_validation_that_nobody_asked_for_is_refused() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let said = openssl(&agent, &["-alpn", "acme-tls/1"]);
    assert!(said.contains("alert no application protocol"), "{said}");
}

#[test]
fn a_renewed_certificate_is_shown_though_the_configuration_has_a_mistake() {
    let upstream = Upstream::mirror();
    let mut agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    fs::write(agent.file(), "nonsense").unwrap();
    agent.logged("is refused");
    let folder = agent.file().parent().unwrap().to_owned();
    let renewed =
        rcgen::generate_simple_self_signed(["secure.example".to_owned(), "renewed.example".to_owned()])
            .unwrap();
    for (name, text) in [("key.pem", renewed.signing_key.serialize_pem()), ("cert.pem", renewed.cert.pem())] {
        // As certbot does: another file takes its place.
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }
    let line = agent.logged("loaded from");
    assert!(line.contains("renewed.example"), "{line}");
    assert!(openssl(&agent, &["-servername", "renewed.example"]).contains("New, TLSv1.3"));
}
