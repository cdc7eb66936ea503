//! Services are told the client's own address, which no address translation hides.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use rprox_tests::playground::{Playground, SERVICES};
use rprox_tests::topology::{CLIENT, HOST};

#[test]
fn the_service_sees_the_clients_own_address() {
    assert_service_sees_client(&Playground::running().unwrap());
}

#[test]
fn the_service_sees_the_clients_own_address_through_passed_sockets() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent_by_socket_activation().unwrap();
    playground.start_loader(&[]).unwrap();
    assert_service_sees_client(&playground);
}

fn assert_service_sees_client(playground: &Playground) {
    let host = SERVICES[1].host;
    for scheme in ["http", "https"] {
        for (to, own) in HOST.both().into_iter().zip(CLIENT.both()) {
            let answer = playground.get_at(&format!("{scheme}://{host}/"), to).send().unwrap();
            assert_eq!(answer.status(), Some(200));
            assert_eq!(answer.field("client"), Some(&*own.to_string()), "{scheme} to {to}");
            assert_eq!(answer.field("proto"), Some(scheme));
            let forwarded = answer.field("forwarded").unwrap();
            let expected = if own.is_ipv4() { format!("for={own}") } else { format!("for=\"[{own}]\"") };
            assert!(forwarded.contains(&expected), "{forwarded}");
        }
    }
}

#[test]
fn a_client_cannot_claim_another_address() {
    let playground = Playground::running().unwrap();
    let url = format!("http://{}/", SERVICES[1].host);
    let claim = |header: &str| playground.get(&url).argument("--header").argument(header).send().unwrap();
    let answer = claim("X-Forwarded-For: 192.0.2.1");
    assert_eq!(answer.field("client"), Some(&*CLIENT.v4.to_string()));
    let answer = claim("Forwarded: for=192.0.2.1");
    assert!(!answer.field("forwarded").unwrap().contains("192.0.2.1"), "{}", answer.body);
}
