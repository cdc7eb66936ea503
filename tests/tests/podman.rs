//! The real thing: rootless Podman of an ordinary user, with the agent in a container.

use rprox_tests::rootless::Host;

#[test]
fn pods_find_each_other_by_name() {
    let host = Host::boot().unwrap();
    println!("{}", host.podman("info").unwrap());
}
