//! What the redirect must leave alone: traffic that the host only forwards, and the listener's own port.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::net::SocketAddr;

use rprox_tests::client::{Answer, Request};
use rprox_tests::netns::Netns;
use rprox_tests::playground::{Playground, SERVICES, elsewhere};
use rprox_tests::pod::Server;
use rprox_tests::topology::{CLIENT, HOST};

const HOST_NAME: &str = SERVICES[1].host;

fn get(from: &Netns, url: &str) -> Answer {
    Request::get(from, url).send().unwrap()
}

#[test]
fn forwarded_traffic_to_and_from_somebody_elses_ports_passes() {
    let playground = Playground::running().unwrap();
    let _server = playground.start_elsewhere(&[80, 443, 8080, 8443]).unwrap();
    // To port 80: in through the chosen interface. From port 8080: out through it.
    for port in [80, 443, 8080, 8443] {
        for (url, own) in elsewhere(port).iter().zip(CLIENT.both()) {
            let answer = get(&playground.topology.client, url);
            assert_eq!(answer.field("pod"), Some("elsewhere"), "{url}");
            assert_eq!(answer.field("peer"), Some(&*own.to_string()), "{url}");
        }
    }
}

#[test]
fn pods_and_the_host_reach_servers_beyond_the_chosen_interface() {
    let playground = Playground::running().unwrap();
    let folder = playground.folder().join("client-server");
    let _server = Server::start("client-server", &playground.topology.client, &[80, 8080], &folder).unwrap();
    let pod = playground.pods.iter().find(|pod| pod.spec().v6.is_some()).unwrap();
    for port in [80, 8080] {
        for url in [format!("http://{}:{port}/", CLIENT.v4), format!("http://[{}]:{port}/", CLIENT.v6)] {
            for from in [pod.netns(), &playground.topology.host] {
                assert_eq!(get(from, &url).field("pod"), Some("client-server"), "{url} from {}", from.name());
            }
        }
    }
}

#[test]
fn direct_connections_from_outside_are_refused_by_default_and_counted() {
    let playground = Playground::running().unwrap();
    for port in [8080, 8443] {
        for ip in HOST.both() {
            assert!(!playground.topology.client.can_connect(SocketAddr::new(ip, port)), "{ip} port {port}");
        }
    }
    assert!(playground.is_redirected());

    let status = playground.status().unwrap();
    assert_eq!(status["direct"], "deny");
    let rules = status["rules"].as_array().unwrap();
    for rule in rules.iter().filter(|rule| rule["protocol"] == "tcp") {
        assert!(rule["refused_direct"].as_u64() >= Some(2), "{rule}");
        assert!(rule["connections"].as_u64() >= Some(2), "{rule}");
    }
    // Not from outside: the host's own users are not kept from their own port.
    let local = SocketAddr::from(([127, 0, 0, 1], 8080));
    assert!(playground.topology.host.can_connect(local));
}

#[test]
fn direct_connections_work_where_they_are_allowed() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    playground.start_loader(&["--direct", "allow"]).unwrap();
    for to in HOST.both() {
        for port in ["", ":8080"] {
            let answer = playground.get_at(&format!("http://{HOST_NAME}{port}/"), to).send().unwrap();
            assert_eq!(answer.status(), Some(200), "{to}{port}");
            assert_eq!(answer.field("pod"), Some("grafana"));
        }
        for port in ["", ":8443"] {
            let answer = playground.get_at(&format!("https://{HOST_NAME}{port}/"), to).send().unwrap();
            assert_eq!(answer.status(), Some(200), "{to}{port}");
        }
    }
}
