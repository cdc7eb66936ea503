//! The article's whole story: a rootless proxy behind ports 80 and 443, finding the registry's pod by its name.

use std::fs;
use std::net::SocketAddr;

use rprox_tests::client::Version;
use rprox_tests::playground::{AGENT, Playground, SERVICES};
use rprox_tests::topology::HOST;

const REGISTRY: &str = SERVICES[0].host;

#[test]
fn http_is_redirected_to_https_which_reaches_the_registry() {
    let playground = Playground::running().unwrap();

    let redirect = playground.get(&format!("http://{REGISTRY}/v2/_catalog?n=10")).send().unwrap();
    assert_eq!(redirect.statuses, [301]);
    assert_eq!(redirect.header("location"), Some("https://registry.mydomain.com/v2/_catalog?n=10"));

    for version in Version::ALL {
        let url = format!("http://{REGISTRY}/v2/_catalog?n=10");
        let answer = playground.get(&url).version(version).follow().send().unwrap();
        assert_eq!(answer.statuses, [301, 200]);
        assert_eq!(answer.version, Some(version));
        assert_eq!(answer.field("pod"), Some("container-registry"));
        assert_eq!(answer.field("host"), Some(REGISTRY));
        assert_eq!(answer.field("uri"), Some("/v2/_catalog?n=10"));
        assert_eq!(answer.field("proto"), Some("https"));
    }
}

#[test]
fn a_redirected_upload_keeps_its_method() {
    let playground = Playground::running().unwrap();
    let url = format!("http://{REGISTRY}/v2/blobs/uploads/");
    let answer = playground.get(&url).argument("--data").argument("blob").send().unwrap();
    assert_eq!(answer.statuses, [308]);
}

#[test]
fn a_host_without_a_route_is_not_found() {
    let playground = Playground::running().unwrap();
    let url = "http://nobody.mydomain.com/";
    let answer = playground.get(url).resolve("nobody.mydomain.com", HOST.v4.into()).send().unwrap();
    assert_eq!(answer.statuses, [404]);
}

#[test]
fn ports_80_and_443_are_closed_until_the_loader_attaches() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    for port in [80, 443] {
        for ip in HOST.both() {
            assert!(!playground.topology.client.can_connect(SocketAddr::new(ip, port)), "{ip} port {port}");
        }
    }
    playground.start_loader(&[]).unwrap();
    let answer = playground.get(&format!("https://{REGISTRY}/")).send().unwrap();
    assert_eq!(answer.statuses, [200]);
}

#[test]
fn the_agent_has_no_privilege_whatever() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let pid = playground.agent.as_ref().unwrap().pid();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>()
    };
    let id = AGENT.id.to_string();
    assert_eq!(value("Uid"), [&id; 4]);
    assert_eq!(value("Gid"), [&id; 4]);
    assert_eq!(value("Groups"), [""; 0]);
    assert_eq!(value("NoNewPrivs"), ["1"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(value(set), ["0000000000000000"], "{set}");
    }
}

#[test]
fn the_agent_drains_and_ends_well_when_told_to() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let status = playground.agent.take().unwrap().stop().unwrap();
    assert!(status.success(), "{status}");
}
