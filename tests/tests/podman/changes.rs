//! What goes and comes under load, and how many requests that costs: none.

use rprox_tests::load::Closed;
use rprox_tests::rootless::site::Site;
use rprox_tests::wait;

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

    // Podman starts it again with the next container.
    site.make_pod("late", None).unwrap();
    site.wait_for_answer_of("http://late.pods.mydomain.test/", "late").unwrap();
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
