//! What the process was given to begin with.

use std::io::Write;

use crate::agent::Agent;
use crate::client::{connect, read_reply};
use crate::upstream::Upstream;

#[test]
fn the_soft_limit_on_open_files_keeps_nobody_out() {
    let upstream = Upstream::mirror();
    let agent = Agent::start_with_files(64, &[("a.example", &upstream.address.to_string())]);
    let mut clients: Vec<_> = (0..100).map(|_| connect(agent.http)).collect();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        assert_eq!(read_reply(client).status(), 200);
    }
}
