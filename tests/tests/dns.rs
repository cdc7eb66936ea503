//! Pods come, go and move, and the name service fails: requests do not.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use rprox_tests::playground::{Playground, SERVICES};
use rprox_tests::pod::PodSpec;

const GRAFANA: usize = 1;
const WIKI: usize = 2;

#[test]
fn no_get_fails_while_an_endpoint_moves_to_another_address() {
    let mut playground = Playground::running().unwrap();
    let load = playground.load(&SERVICES[GRAFANA]);
    let mut name = "grafana";
    for (number, next) in ["grafana-2", "grafana-3"].into_iter().enumerate() {
        load.wait_for_more(100).unwrap();
        // As Podman replaces a container: another address under the same name, and the old one is gone at once.
        let host = 100 + u8::try_from(number).unwrap();
        let spec = PodSpec {
            name: next,
            alias: Some("grafana"),
            v4: Some(Ipv4Addr::new(10, 89, 0, host)),
            v6: None,
        };
        let container = spec.container();
        let pod = playground.start_pod(spec).unwrap();
        playground.dns.replace(name, next, container).unwrap();
        playground.take_pod(name).crash().unwrap();
        playground.pods.push(pod);
        name = next;
    }
    load.wait_for_more(200).unwrap();
    let tally = load.finish().unwrap();
    tally.assert_all_served();
    assert!(tally.longest < Duration::from_secs(5), "a request took {:?}", tally.longest);

    let answer = playground.get(&format!("http://{}/", SERVICES[GRAFANA].host)).send().unwrap();
    assert_eq!(answer.field("pod"), Some("grafana-3"));
}

#[test]
fn no_request_fails_while_the_name_service_is_down_for_ten_seconds() {
    let mut playground = Playground::running().unwrap();
    let load = playground.load(&SERVICES[GRAFANA]);
    load.wait_for_more(100).unwrap();
    playground.dns.stop().unwrap();
    load.hold_for(Duration::from_secs(10)).unwrap();
    playground.dns.resume().unwrap();
    load.wait_for_more(100).unwrap();
    let tally = load.finish().unwrap();
    tally.assert_all_served();
    // The last good answer serves: no request waits for one that does not come.
    assert!(tally.longest < Duration::from_secs(1), "a request took {:?}", tally.longest);
}

#[test]
fn requests_take_turns_over_the_endpoints_of_a_name() {
    let playground = Playground::running().unwrap();
    let url = format!("http://{}/", SERVICES[WIKI].host);
    let pods: Vec<_> =
        (0..20).map(|_| playground.get(&url).send().unwrap().field("pod").unwrap().to_owned()).collect();
    let count = |name: &str| pods.iter().filter(|pod| *pod == name).count();
    // In turn on each of two workers.
    assert!(count("wiki-1") >= 9 && count("wiki-2") >= 9, "{pods:?}");
}

#[test]
fn a_crashed_endpoint_that_dns_still_names_costs_no_request() {
    let mut playground = Playground::running().unwrap();
    let load = playground.load(&SERVICES[WIKI]);
    load.wait_for_more(100).unwrap();
    playground.take_pod("wiki-1").crash().unwrap();
    load.wait_for_more(200).unwrap();
    let tally = load.finish().unwrap();
    tally.assert_all_served();
    let url = format!("http://{}/", SERVICES[WIKI].host);
    let pods: BTreeSet<_> =
        (0..4).map(|_| playground.get(&url).send().unwrap().field("pod").unwrap().to_owned()).collect();
    assert_eq!(pods, BTreeSet::from(["wiki-2".to_owned()]));
}

#[test]
fn a_name_that_dns_does_not_know_is_a_bad_gateway_until_it_does() {
    let mut playground = Playground::running().unwrap();
    let url = format!("http://{}/", SERVICES[GRAFANA].host);
    let spec = playground.pods.iter().find(|pod| pod.spec().name == "grafana").unwrap().spec().clone();
    playground.dns.remove("grafana").unwrap();
    // Asked for the first time now, so nothing is remembered of it.
    let answer = playground.get(&url).send().unwrap();
    assert!(matches!(answer.status(), Some(502..=504)), "{:?}", answer.statuses);

    playground.dns.set("grafana", spec.container()).unwrap();
    rprox_tests::wait::until(Duration::from_secs(12), "the name to be found", || {
        (playground.get(&url).send().unwrap().status() == Some(200)).then_some(())
    })
    .unwrap();
}
