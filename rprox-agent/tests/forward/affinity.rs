//! Clients that come back to where they were, and endpoints that are asked whether they are well.

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use crate::agent::{Agent, PATIENCE};
use crate::client::{Reply, ask, get};
use crate::upstream::Upstream;

/// One that answers with its name and the request.
fn named(name: &'static str) -> Upstream {
    Upstream::start(move |head, stream| {
        let text = format!("{name}\n{head}");
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(response.as_bytes()).unwrap();
        true
    })
}

fn name_of(reply: &Reply) -> String {
    assert_eq!(reply.status(), 200, "{}", reply.head);
    reply.text().lines().next().unwrap().to_owned()
}

fn ask_with(agent: &Agent, cookies: &str) -> Reply {
    ask(agent, &format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {cookies}\r\n\r\n"))
}

#[test]
fn a_cookie_brings_a_client_back_and_is_not_the_upstream_s_business() {
    let upstreams = [named("one"), named("two"), named("three")];
    let list = upstreams.each_ref().map(|upstream| format!("\"{}\"", upstream.address)).join(", ");
    let route =
        format!("[[route]]\nhost = \"a.example\"\nupstream = [{list}]\nsticky = {{ cookie = \"at\" }}");
    let agent = Agent::start(&[], &route);
    let first = get(&agent, "a.example", "/");
    let cookie = first.field("set-cookie").unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains("127.0.0.1"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..20 {
        let reply = ask_with(&agent, &format!("theme=dark; {pair}; lang=en"));
        assert_eq!(name_of(&reply), name_of(&first));
        assert_eq!(reply.field("set-cookie"), None, "it has the cookie already");
        assert!(reply.text().contains("theme=dark; lang=en"), "{}", reply.text());
        assert!(!reply.text().contains("at="), "{}", reply.text());
    }
    let strangers: HashSet<_> = (0..40).map(|_| name_of(&get(&agent, "a.example", "/"))).collect();
    assert!(strangers.len() > 1, "without a cookie they are spread");
}

#[test]
fn when_the_endpoint_is_gone_the_client_gets_another_and_its_cookie() {
    let (stays, leaves) = (named("stays"), named("leaves"));
    let gone = crate::agent::free_address();
    let route = |upstreams: &str| {
        format!("[[route]]\nhost = \"a.example\"\nupstream = [{upstreams}]\nsticky = {{ cookie = \"at\" }}")
    };
    let agent = Agent::start(&[], &route(&format!("\"{}\", \"{}\"", stays.address, leaves.address)));
    let deadline = Instant::now() + PATIENCE;
    let cookie = loop {
        let reply = get(&agent, "a.example", "/");
        if name_of(&reply) == "leaves" {
            break reply.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline);
    };
    let agent = Agent::start(&[], &route(&format!("\"{}\", \"{gone}\"", stays.address)));
    let reply = ask_with(&agent, &cookie);
    assert_eq!(name_of(&reply), "stays");
    let new = reply.field("set-cookie").unwrap();
    assert!(new.starts_with("at=") && !new.starts_with(&cookie), "{new}");
}

#[test]
fn one_that_is_drained_keeps_its_clients_and_gets_no_others() {
    let (old, new) = (named("old"), named("new"));
    let route = |weight: u32| {
        format!(
            "[[route]]\nhost = \"a.example\"\nupstream = [{{ to = \"{}\", weight = {weight} }}, \"{}\"]\nsticky = {{}}",
            old.address, new.address
        )
    };
    let agent = Agent::start(&[], &route(1000));
    let deadline = Instant::now() + PATIENCE;
    let cookie = loop {
        let reply = get(&agent, "a.example", "/");
        if name_of(&reply) == "old" {
            break reply.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline);
    };
    let agent = Agent::start(&[], &route(0));
    for _ in 0..10 {
        assert_eq!(name_of(&ask_with(&agent, &cookie)), "old");
        assert_eq!(name_of(&get(&agent, "a.example", "/")), "new");
    }
}

#[test]
fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_again() {
    let sick = Arc::new(AtomicBool::new(true));
    let checks = Arc::new(AtomicUsize::new(0));
    let (is_sick, count) = (Arc::clone(&sick), Arc::clone(&checks));
    let patient = Upstream::start(move |head, stream| {
        let text = if head.starts_with("GET /healthz ") {
            count.fetch_add(1, Ordering::Relaxed);
            let status = if is_sick.load(Ordering::Relaxed) { "503 Sick" } else { "200 OK" };
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npatient".to_owned()
        };
        stream.write_all(text.as_bytes()).unwrap();
        true
    });
    let well = named("well");
    let mut agent = Agent::start(
        &[],
        &format!(
            "[[route]]\nhost = \"a.example\"\nupstream = [\"{}\", \"{}\"]\nbalance = \"round-robin\"\n\
             health = {{ path = \"/healthz\", interval = \"50ms\", timeout = \"1s\", healthy = 2 }}",
            patient.address, well.address
        ),
    );
    agent.logged("unhealthy: left out");
    for _ in 0..20 {
        assert_eq!(name_of(&get(&agent, "a.example", "/")), "well");
    }
    let (_, metrics) = agent.admin("/metrics");
    let healthy = format!("\nrprox_endpoint_healthy{{endpoint=\"{}\"}} 0\n", patient.address);
    assert!(metrics.contains(&healthy), "{metrics}");
    sick.store(false, Ordering::Relaxed);
    agent.logged("healthy again");
    let seen: HashSet<_> = (0..20).map(|_| name_of(&get(&agent, "a.example", "/"))).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(checks.load(Ordering::Relaxed) >= 3);
}

#[test]
fn a_reload_begins_only_the_checks_that_are_new() {
    let (asked, asks) = mpsc::channel();
    let asked = Mutex::new(asked);
    let upstream = Upstream::start(move |head, stream| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        asked.lock().unwrap().send(path).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let route = |host: &str, path: &str| {
        format!(
            "[[route]]\nhost = \"{host}\"\nupstream = \"{}\"\nhealth = {{ path = \"{path}\", interval = \"1h\" }}\n",
            upstream.address
        )
    };
    let agent = Agent::start(&[], &route("a.example", "/steady"));
    assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), "/steady");
    for number in 0..10 {
        let path = format!("/new/{number}");
        agent.write(&(agent.configuration(&[]) + &route("b.example", &path)));
        assert!(agent.order("reload").status.success());
        assert_eq!(asks.recv_timeout(PATIENCE).unwrap(), path);
    }
}

/// What stands behind an agent that speaks all protocols, and a route to it by `scheme` whose checks follow how well it is.
fn checks_follow(scheme: &str) {
    let sick = Arc::new(AtomicBool::new(true));
    let is_sick = Arc::clone(&sick);
    let upstream = Upstream::start(move |head, stream| {
        let by_http2 = head.to_ascii_lowercase().contains("\r\nvia: 2.0 rprox");
        let well = by_http2 && !is_sick.load(Ordering::Relaxed);
        let status = if well { "200 OK" } else { "503 Sick" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let behind = Agent::start(&[("*", &upstream.address.to_string())], "");
    let address = if scheme == "https" { behind.https } else { behind.http };
    let ca = behind.beside("cert.pem");
    let tls = format!(", ca = \"{}\", server_name = \"secure.example\"", ca.display());
    let mut agent = Agent::start(
        &[],
        &format!(
            "[[route]]\nhost = \"a.example\"\nupstream = {{ to = \"{scheme}://{address}\"{} }}\n\
             health = {{ path = \"/\", interval = \"50ms\" }}",
            if scheme == "https" { tls } else { String::new() }
        ),
    );
    assert!(agent.logged("unhealthy: left out").contains("status 503"));
    sick.store(false, Ordering::Relaxed);
    agent.logged("healthy again");
    agent.metrics_with(&[format!("rprox_endpoint_healthy{{endpoint=\"{address}\"}} 1")]);
}

#[test]
fn an_endpoint_is_asked_by_http2_without_tls() {
    checks_follow("h2c");
}

#[test]
fn an_endpoint_is_asked_over_tls() {
    checks_follow("https");
}

#[test]
fn when_no_endpoint_passes_its_checks_they_are_used_all_the_same() {
    let upstream = Upstream::start(|head, stream| {
        let status = if head.starts_with("GET /healthz ") { "500 Sick" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let mut agent = Agent::start(
        &[],
        &format!(
            "[[route]]\nhost = \"a.example\"\nupstream = \"{}\"\nhealth = {{ path = \"/healthz\" }}",
            upstream.address
        ),
    );
    agent.logged("unhealthy: left out");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}
