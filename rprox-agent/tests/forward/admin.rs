//! What the admin listener tells.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::agent::{Agent, free_address};
use crate::client::{ask, connect, get, read_reply};
use crate::upstream::Upstream;

#[test]
fn health_status_and_metrics_are_told() {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    let agent = Agent::start(&[("a.example", &address)], "");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(agent.admin("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(agent.admin("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(agent.admin("/nothing").0, 404);
    let (status, json) = agent.admin("/status.json");
    assert_eq!(status, 200);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["configuration"]["file"], agent.file().to_str().unwrap());
    assert_eq!(status["routes"][0]["route"], "a.example/");
    assert_eq!(status["upstreams"][0]["endpoints"][0]["address"], address);
    assert_eq!(status["certificates"][0]["names"][0], "other.example");
    let (status, metrics) = agent.admin("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("\nrprox_client_connections_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nrprox_limit_hits_total{limit=\"connections\"} 0\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn the_readme_has_the_name_of_every_metric() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let told = told(readme.split("\n## The agent").nth(1).unwrap());
    let metrics = agent.admin("/metrics").1;
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let untold: Vec<_> = types
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .filter(|name| !told.contains(name))
        .collect();
    assert!(untold.is_empty(), "the README lacks {untold:?}");
}

/// The metrics named in `text`. One that begins with an underscore is short for the one before it with another end.
fn told(text: &str) -> HashSet<String> {
    let mut told = HashSet::new();
    let mut whole = "";
    let quoted = text.split('`').skip(1).step_by(2);
    for name in quoted.map(|quoted| quoted.split('{').next().unwrap_or_default()) {
        if name.starts_with("rprox_") {
            whole = name;
            told.insert(name.to_owned());
        } else if name.starts_with('_') {
            told.extend(whole.match_indices('_').map(|(place, _)| format!("{}{name}", &whole[..place])));
        }
    }
    told
}

/// The state and the running requests of the endpoint at `address`.
fn endpoint(agent: &Agent, address: SocketAddr) -> (String, i64) {
    let status: serde_json::Value = serde_json::from_str(&agent.admin("/status.json").1).unwrap();
    let upstreams = status["upstreams"].as_array().unwrap();
    let mut endpoints = upstreams.iter().flat_map(|upstream| upstream["endpoints"].as_array().unwrap());
    let endpoint = endpoints.find(|endpoint| endpoint["address"] == address.to_string()).unwrap();
    (endpoint["state"].as_str().unwrap().to_owned(), endpoint["requests_running"].as_i64().unwrap())
}

#[test]
fn the_status_tells_how_each_endpoint_is() {
    let (busy, held) = Upstream::held("");
    let sick = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let (gone, drained) = (free_address(), free_address());
    let mut agent = Agent::start(
        &[("busy.example", &busy.address.to_string()), ("gone.example", &gone.to_string())],
        &format!(
            "passive_health = {{ back_off = \"1h\", longest_back_off = \"1h\" }}\n\
             [[route]]\nhost = \"sick.example\"\nhealth = {{ path = \"/\" }}\n\
             upstream = [\"{}\", {{ to = \"{drained}\", weight = 0 }}]",
            sick.address
        ),
    );
    assert_eq!(endpoint(&agent, busy.address), ("healthy".to_owned(), 0));
    let mut client = connect(agent.http);
    client.write_all(b"GET / HTTP/1.1\r\nHost: busy.example\r\n\r\n").unwrap();
    held.wait_for_request();
    assert_eq!(get(&agent, "gone.example", "/").status(), 502);
    agent.logged(&format!("endpoint={}", sick.address));
    assert_eq!(endpoint(&agent, busy.address), ("healthy".to_owned(), 1));
    assert_eq!(endpoint(&agent, gone).0, "left_out");
    assert_eq!(endpoint(&agent, sick.address).0, "unhealthy");
    assert_eq!(endpoint(&agent, drained).0, "draining");
    held.answer();
    assert_eq!(read_reply(&mut client).status(), 200);
}

#[test]
fn requests_are_counted_by_route_status_and_endpoint() {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    let agent = Agent::start(
        &[("a.example", &address), ("gone.example", "127.0.0.9:9")],
        "[limits]\nbody_bytes = 1\n[dns]\nservers = \"127.0.0.1:9\"",
    );
    let mut kept = connect(agent.http);
    for _ in 0..3 {
        kept.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        assert_eq!(read_reply(&mut kept).status(), 200);
    }
    assert_eq!(get(&agent, "gone.example", "/").status(), 502);
    assert_eq!(get(&agent, "unknown.example", "/").status(), 404);
    let large = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nxx";
    assert_eq!(ask(&agent, large).status(), 413);
    let wanted = [
        "rprox_requests_total{route=\"a.example/\",code=\"2xx\"} 3".to_owned(),
        "rprox_requests_total{route=\"a.example/\",code=\"4xx\"} 1".to_owned(),
        "rprox_requests_total{route=\"gone.example/\",code=\"5xx\"} 1".to_owned(),
        "rprox_requests_total{route=\"\",code=\"4xx\"} 1".to_owned(),
        "rprox_request_duration_seconds_count{route=\"a.example/\"} 4".to_owned(),
        "rprox_request_duration_seconds_bucket{le=\"+Inf\",route=\"a.example/\"} 4".to_owned(),
        format!("rprox_upstream_connects_total{{endpoint=\"{address}\"}} 1"),
        format!("rprox_upstream_reuses_total{{endpoint=\"{address}\"}} 2"),
        "rprox_limit_hits_total{limit=\"body_bytes\"} 1".to_owned(),
    ];
    agent.metrics_with(&wanted);
}

#[test]
fn an_agent_that_drains_is_alive_and_not_ready() {
    let (upstream, held) = Upstream::held("");
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut running = connect(agent.http);
    running.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    held.wait_for_request();
    agent.terminate();
    agent.logged("told to end");
    assert_eq!(agent.admin("/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(agent.admin("/healthz").0, 200);
    held.answer();
    assert_eq!(read_reply(&mut running).status(), 200);
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn over_tcp_it_tells_and_takes_no_orders() {
    let upstream = Upstream::mirror();
    let address = crate::agent::free_address();
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        &format!("[admin]\nlisten = \"{address}\""),
    );
    let ask = |request: &[u8]| {
        let mut stream: TcpStream = connect(address);
        stream.write_all(request).unwrap();
        read_reply(&mut stream).status()
    };
    assert_eq!(ask(b"GET /healthz HTTP/1.1\r\nHost: admin\r\n\r\n"), 200);
    assert_eq!(ask(b"POST /reload HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n"), 403);
    drop(agent);
}
