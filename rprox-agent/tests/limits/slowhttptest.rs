//! Debian's slowhttptest, which holds connections open by being slow.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::agent::{Agent, PATIENCE};
use crate::client::get;
use crate::hits;
use crate::upstream::Upstream;

/// Runs it with 50 connections for at most ten seconds.
fn attack(agent: &Agent, mode: &[&str]) -> Child {
    Command::new("slowhttptest")
        .args(["-c", "50", "-r", "100", "-i", "1", "-l", "10", "-p", "5"])
        .args(mode)
        .args(["-u", &format!("http://127.0.0.1:{}/", agent.http.port())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("slowhttptest, from the Debian package of that name (cargo xtask setup)")
}

fn survives(mode: &[&str], limit: &str) {
    let upstream = Upstream::start(|head, stream| {
        if head.starts_with("POST") {
            return std::io::copy(stream, &mut std::io::sink()).is_err();
        }
        let body = vec![b'x'; if head.contains("quick.example") { 2 } else { 8 << 20 }];
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(&body).is_ok()
    });
    let agent = Agent::start(
        &[("*", &upstream.address.to_string())],
        "[timeouts]\nheader = \"2s\"\nbody = \"2s\"\n[limits]\nclient_rate = 1000",
    );
    let mut attack = attack(&agent, mode);
    // All are let go, well before it would let go itself, and meanwhile others are served at once.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let asked = Instant::now();
        assert_eq!(get(&agent, "quick.example", "/").status(), 200);
        assert!(asked.elapsed() < PATIENCE / 4);
    }
    hits::wait_for(&agent, limit, 50);
    let _ = attack.kill();
    attack.wait().unwrap();
}

#[test]
fn slow_headers() {
    survives(&["-H"], "timeouts.header");
}

#[test]
fn slow_bodies() {
    survives(&["-B", "-s", "8192", "-x", "10"], "client_rate");
}

#[test]
fn slow_readers() {
    survives(&["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"], "client_rate");
}
