//! What the upstream and the client see of each other's header sections.

use std::io::Write;
use std::process::Command;

use crate::agent::Agent;
use crate::client::{ask, ask_over_tls, get};
use crate::upstream::Upstream;

fn lines(head: &str) -> Vec<&str> {
    head.lines().map(str::trim).collect()
}

#[test]
fn a_request_arrives_with_what_the_agent_knows_of_the_client() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let reply = ask(
        &agent,
        "GET /x?y=z HTTP/1.1\r\nHost: A.example:80\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         Cookie: c\r\n\r\n",
    );
    assert_eq!(reply.status(), 200);
    let seen = lines(reply.text());
    assert_eq!(seen[0], "GET /x?y=z HTTP/1.1");
    for line in [
        "host: A.example:80",
        "cookie: c",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: A.example:80",
        "forwarded: for=127.0.0.1;proto=http;host=\"A.example:80\"",
    ] {
        assert!(seen.contains(&line), "{line} is not in {seen:#?}");
    }
    assert!(seen.iter().any(|line| line.starts_with("via: 1.1 rprox-")), "{seen:#?}");
    assert!(!reply.text().contains("6.6.6.6"), "{seen:#?}");
}

#[test]
fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::mirror();
    let agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "trusted_proxies = [\"127.0.0.0/8\"]");
    let reply = ask(
        &agent,
        "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
         Via: 1.1 front\r\n\r\n",
    );
    let seen = lines(reply.text());
    assert!(seen.contains(&"x-forwarded-for: 192.0.2.1, 127.0.0.1"), "{seen:#?}");
    assert!(seen.contains(&"x-forwarded-proto: https"), "{seen:#?}");
    assert!(seen.contains(&"via: 1.1 front"), "{seen:#?}");
    assert!(seen.iter().any(|line| line.starts_with("via: 1.1 rprox-")), "{seen:#?}");
}

#[test]
fn over_tls_it_is_https() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let reply = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n");
    assert_eq!(reply.status(), 200);
    assert!(lines(reply.text()).contains(&"x-forwarded-proto: https"), "{}", reply.text());
}

#[test]
fn fields_for_one_hop_stay_on_it() {
    let upstream = Upstream::start(|head, stream| {
        let body = head.to_ascii_lowercase();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: x-inner, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Inner: 1\r\nX-Outer: 2\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let reply = ask(
        &agent,
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\n\r\n",
    );
    let seen = lines(reply.text());
    for gone in ["x-mine", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!seen.iter().any(|line| line.starts_with(gone)), "{gone} in {seen:#?}");
    }
    let own = seen.iter().filter(|line| line.starts_with("connection:") || line.starts_with("te:"));
    assert_eq!(own.collect::<Vec<_>>(), [&"te: trailers", &"connection: te"]);
    assert_eq!((reply.field("x-inner"), reply.field("keep-alive")), (None, None));
    assert_eq!(reply.field("x-outer"), Some("2"));

    // The client's `Connection: close` ended its own connection and not the upstream's.
    for _ in 0..3 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    assert!(upstream.connections() <= 2, "one for each worker at most, not {}", upstream.connections());
}

#[test]
fn http2_without_tls_works_by_prior_knowledge() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let resolve = format!("a.example:{}:127.0.0.1", agent.http.port());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--http2-prior-knowledge", "-w", "%{http_version}", "--resolve"])
        .args([resolve, format!("http://a.example:{}/x", agent.http.port())])
        .output()
        .expect("curl runs");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("GET /x HTTP/1.1"), "{text}");
    assert!(text.contains("via: 2.0 rprox"), "{text}");
    assert!(text.contains(&format!("host: a.example:{}", agent.http.port())), "{text}");
    assert!(text.ends_with('2'), "{text}");
}
