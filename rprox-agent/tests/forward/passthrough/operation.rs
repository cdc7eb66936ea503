//! What an operator does while connections run, and sees of them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::process::Signal;

use super::{Secure, echoes, hello, over_tls, raw, route};
use crate::agent::Agent;
use crate::client::read_to_close;

/// Whether bytes pass both ways.
fn passes(one: &mut TcpStream, other: &mut TcpStream) -> bool {
    let mut heard = [0; 2];
    one.write_all(b"to").unwrap();
    other.read_exact(&mut heard).unwrap();
    let there = heard == *b"to";
    other.write_all(b"fr").unwrap();
    one.read_exact(&mut heard).unwrap();
    there && heard == *b"fr"
}

#[test]
fn a_reload_leaves_what_runs_and_new_connections_go_by_the_new_rules() {
    let (one, two) = (Secure::start("a.example"), Secure::start("a.example"));
    let mut agent = Agent::start(&[], &route("a.example", one.address));
    let mut before = over_tls(&agent, "a.example", &one.certificate);
    assert!(echoes(&mut before, "before"));
    let configuration = agent.configuration(&[]);
    agent.write(&configuration.replace(&one.address.to_string(), &two.address.to_string()));
    agent.logged("the configuration was loaded anew");
    assert!(echoes(&mut over_tls(&agent, "a.example", &two.certificate), "new"));
    assert!(echoes(&mut before, "and the old one lasts"));
    // Without the route the name is nobody's.
    agent.write(&configuration.replace("a.example", "b.example"));
    agent.logged("the configuration was loaded anew");
    let refused = over_tls(&agent, "a.example", &two.certificate).write_all(b"x").unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    assert!(echoes(&mut before, "still"));
}

#[test]
fn told_to_stop_it_waits_for_what_runs_and_takes_nothing_new() {
    let (mut agent, mut client, mut upstream) = raw("");
    agent.terminate();
    agent.logged("told to end");
    assert!(passes(&mut client, &mut upstream));
    client.shutdown(Shutdown::Write).unwrap();
    drop(upstream);
    assert_eq!(read_to_close(&mut client), b"");
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn what_lasts_longer_than_draining_may_take_is_cut() {
    let (mut agent, mut client, _upstream) = raw("drain_timeout = \"300ms\"");
    agent.terminate();
    agent.logged("drain_timeout passed");
    assert_eq!(read_to_close(&mut client), b"");
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn a_new_build_takes_over_while_connections_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = Agent::start_copy(&[], &route("raw.example", listener.local_addr().unwrap()));
    let (mut client, mut upstream) = super::raw_connection(&agent, &listener);
    agent.replace_program();
    agent.signal(Signal::USR2);
    agent.logged("a new process serves");
    assert!(passes(&mut client, &mut upstream));
    let (mut client, mut upstream) = super::raw_connection(&agent, &listener);
    assert!(passes(&mut client, &mut upstream));
}

#[test]
fn a_connection_is_counted_and_has_a_line_when_it_ends() {
    let (mut agent, mut client, mut upstream) = raw("");
    assert!(passes(&mut client, &mut upstream));
    let hello = hello("raw.example").len();
    let bytes = |direction: &str, count: usize| {
        format!("rprox_passthrough_bytes_total{{route=\"raw.example\",direction=\"{direction}\"}} {count}")
    };
    agent.metrics_with(&[
        "rprox_passthrough_connections_total{route=\"raw.example\"} 1".to_owned(),
        "rprox_passthrough_connections_open{route=\"raw.example\"} 1".to_owned(),
        bytes("received", hello + 2),
        bytes("sent", 2),
    ]);
    let status: serde_json::Value = serde_json::from_str(&agent.admin("/status.json").1).unwrap();
    assert_eq!(status["routes"][0]["route"], "raw.example");
    assert_eq!(status["routes"][0]["tls"], "passthrough");
    let endpoint = upstream.local_addr().unwrap();
    drop((client, upstream));
    let line = agent.logged("protocol=TLS");
    for field in [
        "host=\"raw.example\"".to_owned(),
        "route=\"raw.example\"".to_owned(),
        format!("endpoint={endpoint}"),
        "client=127.0.0.1".to_owned(),
        "status=200".to_owned(),
        "bytes=2".to_owned(),
        format!("received={}", hello + 2),
    ] {
        assert!(line.contains(&field), "{field} is not in {line}");
    }
}

#[test]
fn its_line_comes_as_json_too() {
    let (mut agent, client, upstream) = raw("log.access_format = \"json\"");
    drop((client, upstream));
    let line: serde_json::Value = serde_json::from_str(&agent.logged("\"protocol\":\"TLS\"")).unwrap();
    assert_eq!((&line["host"], &line["tls"]), (&"raw.example".into(), &true.into()));
    assert_eq!(line["received"], hello("raw.example").len());
    assert!(line["duration"].is_f64() && line["bytes"] == 0, "{line}");
}

#[test]
fn without_a_certificate_of_ours_it_listens_for_https_all_the_same() {
    let upstream = Secure::start("a.example");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rprox.toml");
    std::fs::write(&file, route("a.example", upstream.address)).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rprox-agent"))
        .args(["check", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("https  [::]:8443") && said.contains("TLS is passed through"), "{said}");
}
