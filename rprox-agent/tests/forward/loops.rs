//! Routes that lead back, and what is counted of upstreams.

use crate::agent::Agent;
use crate::client::get;
use crate::upstream::Upstream;

#[test]
fn a_route_that_leads_to_the_agent_itself_ends_in_508() {
    let address = crate::agent::free_address();
    let mut agent = Agent::start(&[], &format!("[[route]]\nhost = \"a.example\"\nupstream = \"{address}\""));
    let configuration = agent.configuration(&[]).replace(&address.to_string(), &agent.http.to_string());
    agent.write(&configuration);
    agent.logged("loaded anew");
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 508, "{}", reply.head);
    agent.logged("leads back here");
    let (_, metrics) = agent.admin("/metrics");
    assert!(metrics.contains("\nrprox_limit_hits_total{limit=\"passes\"} 1\n"), "{metrics}");
}

#[test]
fn agents_one_behind_the_other_are_no_loop() {
    let upstream = Upstream::mirror();
    let mut agents = vec![Agent::start(&[("a.example", &upstream.address.to_string())], "")];
    for _ in 0..5 {
        let next = agents.last().unwrap().http.to_string();
        agents.push(Agent::start(&[("a.example", &next)], ""));
    }
    let reply = get(agents.last().unwrap(), "a.example", "/");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.text().to_ascii_lowercase().matches("via: 1.1 rprox-").count(), 6, "{}", reply.text());
}

#[test]
fn endpoints_are_counted() {
    let upstream = Upstream::mirror();
    let gone = crate::agent::free_address();
    let routes = [("a.example", &*upstream.address.to_string()), ("b.example", &*gone.to_string())];
    let agent = Agent::start(&routes, "");
    for _ in 0..3 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    assert_eq!(get(&agent, "b.example", "/").status(), 502);
    let wanted = [
        format!("rprox_upstream_requests_running{{endpoint=\"{}\"}} 0", upstream.address),
        format!("rprox_upstream_left_out{{endpoint=\"{}\"}} 0", upstream.address),
        format!("rprox_upstream_connect_failures_total{{endpoint=\"{gone}\"}} 1"),
        format!("rprox_upstream_left_out{{endpoint=\"{gone}\"}} 1"),
        "rprox_upstream_retries_total 0".to_owned(),
        "rprox_upstream_retries_refused_total 0".to_owned(),
    ];
    agent.metrics_with(&wanted);
}
