//! The real thing: rootless Podman of an ordinary user, with the agent in a container.

use rprox_tests::client::Version;
use rprox_tests::load::Closed;
use rprox_tests::rootless::site::Site;
use rprox_tests::topology::CLIENT;
use rprox_tests::wait;

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
fn a_service_that_moves_loses_no_request() {
    let site = Site::start().unwrap();
    let load = site.load(Closed::Fails, "wiki.mydomain.test");
    load.wait_for_more(50).unwrap();
    for pod in ["wiki-1", "wiki-2"] {
        site.host.podman(&format!("pod rm --force --time 0 {pod}")).unwrap();
        load.wait_for_more(50).unwrap();
        site.make_pod(pod, Some("wiki")).unwrap();
        site.wait_for_answer_of("http://wiki.mydomain.test/", pod).unwrap();
    }
    load.finish().unwrap().assert_all_served();
}

#[test]
fn a_network_without_name_service_loses_no_request() {
    let site = Site::start().unwrap();
    let load = site.load(Closed::Fails, "wiki.mydomain.test");
    load.wait_for_more(50).unwrap();
    site.kill_name_service().unwrap();
    let noticed = || site.log().contains("its last answer serves on").then_some(());
    wait::until(wait::READY, "the proxy to miss the name service", noticed).unwrap();
    load.wait_for_more(50).unwrap();
    load.finish().unwrap().assert_all_served();
}

#[test]
fn a_restart_of_the_proxy_loses_no_request() {
    let site = Site::start().unwrap();
    let load = site.load(Closed::Reopens, "wiki.mydomain.test");
    load.wait_for_more(50).unwrap();
    for _ in 0..2 {
        site.host.systemctl("restart rprox.service").unwrap();
        load.wait_for_more(50).unwrap();
    }
    let tally = load.finish().unwrap();
    tally.assert_all_served();
    assert!(tally.reopened <= 2, "{tally:?}");
}
