//! The agent's image by itself, and in the hands of `podman kube play`.

use std::process::Command;

use rprox_tests::certificates::Authority;
use rprox_tests::rootless::{Host, USER, image};
use rprox_tests::{command, programs, wait};
use serde_json::Value;

/// What the image may take.
const LARGEST: u64 = 15_000_000;

#[test]
fn the_image_is_small_and_has_the_agent_alone() {
    let host = Host::boot().unwrap();
    image::of_agent(&host).unwrap();

    let inspected: Value =
        serde_json::from_str(&host.podman("image inspect localhost/rprox-agent").unwrap()).unwrap();
    let inspected = &inspected[0];
    let size = inspected["Size"].as_u64().unwrap();
    assert!(size < LARGEST, "{size} bytes");
    assert_eq!(inspected["User"], "65532:65532");
    assert_eq!(inspected["Labels"]["org.opencontainers.image.title"], "rprox-agent");
    assert_eq!(inspected["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    host.podman("create --name looked-at localhost/rprox-agent").unwrap();
    let export = command::run(host.user("sh").args(["-c", "podman export looked-at | tar -t"])).unwrap();
    let files: Vec<_> = export.lines().filter(|name| !name.ends_with('/')).collect();
    assert_eq!(files, ["etc/ssl/certs/ca-certificates.crt", "rprox-agent"], "{export}");

    let locked = "run --rm --read-only --cap-drop all --security-opt no-new-privileges --network none";
    let version = host.podman(&format!("{locked} localhost/rprox-agent --version")).unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn podman_plays_the_agent_of_the_kubernetes_manifest() {
    let host = Host::boot().unwrap();
    image::of_agent(&host).unwrap();
    let made = Authority::new().unwrap().sign("shop.example.com").unwrap();
    for (name, content) in [("tls.crt", made.certificate), ("tls.key", made.key)] {
        host.write(&format!("certificates/{name}"), content).unwrap();
    }
    let script = programs::workspace().join("tests/tests/podman/kube.py");
    let manifest = programs::workspace().join("deploy/kubernetes/rprox.yaml");
    let mut python = Command::new("/usr/bin/python3");
    python.arg(script).arg(manifest).arg(format!("/home/{USER}/certificates"));
    host.write("kube.yaml", command::run(&mut python).unwrap()).unwrap();

    host.podman("kube play --network podman kube.yaml").unwrap();
    let log = || {
        command::finish(host.user("podman").args(["logs", "kube-agent"])).map(|log| log.stdout + &log.stderr)
    };
    let listens = || log().ok().filter(|log| log.contains("listening on [::]:8443 (https)"));
    wait::until(wait::READY, "the agent to listen", listens)
        .unwrap_or_else(|error| panic!("{error:#}\n{:?}", log()));
}
