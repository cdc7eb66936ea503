//! The sockets that the agent opens itself.

use std::fs;

use crate::agent::Agent;
use crate::client::get;
use crate::upstream::Upstream;

/// `LISTEN` in the kernel's tables.
const LISTENS: &str = "0A";

#[test]
fn each_worker_has_a_socket_of_its_own_and_the_kernel_spreads_the_connections() {
    let upstream = Upstream::mirror();
    let agent = Agent::start_with(3, &[("a.example", &upstream.address.to_string())], "");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    for address in [agent.http, agent.https] {
        let local = format!("0100007F:{:04X}", address.port());
        let sockets = table.lines().filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1] == local && fields[3] == LISTENS
        });
        assert_eq!(sockets.count(), 3, "{local} in\n{table}");
    }
    // Each makes a connection of its own to the upstream, so all have had a request once there are three.
    for _ in 0..200 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    assert_eq!(upstream.connections(), 3);
}
