//! Routes by label, with the API socket of the user's own Podman in the agent's container.

use rprox_tests::rootless::site::{NETWORK, Site};
use rprox_tests::wait;

#[test]
fn a_container_has_a_route_by_its_labels_for_as_long_as_it_runs() {
    let site = Site::start().unwrap();
    site.follow_labels().unwrap();
    let host = &site.host;
    let status =
        |name: &str| host.get(&format!("http://{name}/")).send().ok().and_then(|answer| answer.status());
    let until = |name: &str, wanted: u16| {
        wait::until(wait::READY, &format!("{wanted} from {name}"), || {
            (status(name)? == wanted).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", site.log()));
    };
    let run = |name: &str, label: &str| {
        // Any of nginx's configurations will do; the pod's is its folder.
        let labels = format!("--label rprox.host={label} --label rprox.port=80");
        let volume = format!("--volume /home/{}/wiki-1:/srv", rprox_tests::rootless::USER);
        host.podman(&format!(
            "run --detach --network {NETWORK} --name {name} {labels} {volume} localhost/nginx -p /srv -c nginx.conf -e stderr"
        ))
        .unwrap();
    };
    until("new.labels.mydomain.test", 404);
    run("labelled", "new.labels.mydomain.test");
    until("new.labels.mydomain.test", 200);
    run("thief", "grafana.mydomain.test");
    let refused = || {
        site.log().contains("no route grafana.mydomain.test/ for the labels of container thief").then_some(())
    };
    wait::until(wait::READY, "the thief to be told of", refused).unwrap();
    host.podman("rm --force --time 0 labelled").unwrap();
    until("new.labels.mydomain.test", 404);
}
