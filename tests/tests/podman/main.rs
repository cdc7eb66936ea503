//! The real thing: rootless Podman of an ordinary user, with the agent in a container.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

mod changes;
mod doctor;
mod guide;
mod image;
mod labels;
mod protocols;
mod registry;

use std::process::Command;

use rprox_tests::client::{Request, Version};
use rprox_tests::rootless::site::Site;
use rprox_tests::topology::{CLIENT, HOST};
use rprox_tests::{command, programs};

#[test]
fn a_site_of_pods_is_served_on_ports_80_and_443_by_an_ordinary_user() {
    let site = Site::start().unwrap();

    let redirect = site.get("http://grafana.mydomain.test/d/1?x=2").send().unwrap();
    assert_eq!(redirect.statuses, [301]);
    assert_eq!(redirect.header("location"), Some("https://grafana.mydomain.test/d/1?x=2"));

    for version in Version::ALL {
        let answer = site.get("https://grafana.mydomain.test/").version(version).send().unwrap();
        assert_eq!((answer.status(), answer.version), (Some(200), Some(version)));
        assert_eq!(answer.field("pod"), Some("grafana"));
        assert_eq!(answer.field("client"), Some(&*CLIENT.v4.to_string()), "{}", answer.body);
    }
}

#[test]
fn each_service_sees_the_client_in_a_header_or_as_its_socket_s_peer() {
    let site = Site::start().unwrap();
    site.make_audit().unwrap();
    for (host, client) in HOST.both().into_iter().zip(CLIENT.both()) {
        let client = client.to_string();
        let ask = |url: &str, name: &str| {
            let request = Request::get(&site.host.client, url).resolve(name, host).trust(&site.authority());
            request.send().unwrap()
        };
        let named = ask("https://grafana.mydomain.test/", "grafana.mydomain.test");
        assert_eq!(named.field("client"), Some(&*client), "{}", named.body);
        assert_ne!(named.field("peer"), Some(&*client), "{}", named.body);
        let peer = ask("https://audit.mydomain.test/", "audit.mydomain.test");
        assert_eq!(peer.field("pod"), Some("audit"), "{}", site.log());
        assert_eq!(peer.field("peer"), Some(&*client), "{}", peer.body);
    }
}

#[test]
fn a_pod_made_later_is_served_at_once_and_one_that_is_not_allowed_never() {
    let site = Site::start().unwrap();
    for pod in ["late", "other"] {
        site.make_pod(pod, None).unwrap();
    }
    let answer = site.get("http://late.pods.mydomain.test/").send().unwrap();
    assert_eq!((answer.status(), answer.field("pod")), (Some(200), Some("late")), "{}", site.log());
    assert_eq!(site.get("http://other.pods.mydomain.test/").send().unwrap().status(), Some(404));
}

#[test]
fn xtask_run_shows_the_site_and_takes_it_down() {
    let xtask = programs::target().join("debug/xtask");
    assert!(xtask.exists(), "{} is not built: run `cargo build --package xtask`", xtask.display());
    let run = command::finish(Command::new(xtask).args(["run", "--podman", "--once", "--prebuilt"])).unwrap();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let client = format!("which sees {}", CLIENT.v4);
    assert_eq!(run.stdout.lines().filter(|line| line.contains("200") && line.ends_with(&client)).count(), 6);
}
