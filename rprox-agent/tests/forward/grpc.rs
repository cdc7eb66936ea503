//! gRPC through the agent, spoken by grpcio on both sides.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::agent::{Agent, free_address};

/// grpcio's server, which ends with its standard input.
struct Server {
    child: Child,
    address: SocketAddr,
}

/// Debian's Python, which has Debian's packages.
fn python(script: &str) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.arg(format!("{}/tests/forward/grpc/{script}", env!("CARGO_MANIFEST_DIR")));
    python
}

impl Server {
    fn start() -> Self {
        let mut child =
            python("server.py").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port =
            port.trim().parse().expect("a port; this test needs Debian's python3-grpcio (cargo xtask setup)");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn call(agent: &Agent, method: &str) -> String {
    let output = python("client.py").arg(agent.http.to_string()).arg(method).output().expect("python3 runs");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}

#[test]
fn calls_of_every_kind_pass_with_their_metadata() {
    let server = Server::start();
    let agent = Agent::start(&[("grpc.example", &format!("h2c://{}", server.address))], "");
    for (method, outcome) in [
        ("Unary", "b'cba' all {'after': 'all'}"),
        ("Failing", "FAILED_PRECONDITION not today: \u{fc} b'\\x00\\xff'"),
        ("Absent", "UNIMPLEMENTED Method not found! None"),
        ("Responses", "[b'0', b'1', b'2']"),
        ("Requests", "b'a,b,c'"),
        ("Conversation", "[b'you said one', b'you said two']"),
    ] {
        assert_eq!(call(&agent, method), outcome, "{method}");
    }
}

#[test]
fn the_agent_s_own_answers_are_grpc_statuses() {
    let agent = Agent::start(&[("grpc.example", &format!("h2c://{}", free_address()))], "");
    assert_eq!(call(&agent, "Unary"), "UNAVAILABLE 502 Bad Gateway: the service can't be reached None");
    let agent = Agent::start(&[("other.example", "127.0.0.1:1")], "");
    assert_eq!(call(&agent, "Unary"), "UNIMPLEMENTED 404 Not Found: no route leads from here None");
}
