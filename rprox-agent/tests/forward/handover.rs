//! A new process takes the old one's place.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;

use rprox_tests::wait;
use rustix::process::Signal;

use crate::agent::{Agent, PATIENCE};
use crate::client::{ask_over_tls, connect, get, read_reply};
use crate::load::Load;
use crate::upstream::Upstream;

#[test]
fn under_load_no_request_fails_while_one_process_follows_the_other() {
    let upstream = Upstream::mirror();
    let mut agent = Agent::start_copy(&[("a.example", &upstream.address.to_string())], "");
    let load = Load::start(agent.http, "a.example");
    for _ in 0..3 {
        load.proceed(200);
        agent.replace_program();
        let before = agent.served_by();
        let output = agent.order("upgrade");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_ne!(agent.served_by(), before);
        agent.logged("a new process serves");
        load.proceed(200);
        agent.logged("ended");
    }
    assert!(load.end() > 1000);
    assert!(agent.wait().success());
    let https = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n");
    assert_eq!(https.status(), 404);
}

#[test]
fn a_request_that_runs_is_finished_by_the_old_process_and_its_connection_then_ends() {
    let (upstream, held) = Upstream::held("late");
    let mut agent = Agent::start_copy(&[("a.example", &upstream.address.to_string())], "");
    let mut running = connect(agent.http);
    running.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    held.wait_for_request();
    agent.signal(Signal::USR2);
    agent.logged("a new process serves");
    // Its worker may not know yet; then it serves the connection's next request too.
    loop {
        held.answer();
        let reply = read_reply(&mut running);
        assert_eq!(reply.text(), "late");
        if reply.field("connection") == Some("close") {
            break;
        }
        running.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    }
    assert!(agent.wait().success());
}

#[test]
fn where_the_new_process_does_not_start_the_old_one_serves_on() {
    let upstream = Upstream::mirror();
    let mut agent = Agent::start_copy(&[("a.example", &upstream.address.to_string())], "");
    let before = agent.served_by();
    let configuration = fs::read_to_string(agent.file()).unwrap();
    agent.write("no = 'key'");
    let output = agent.order("upgrade");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("ended before it served (exit status: 2)"), "{told}");
    agent.write(&configuration);

    let program = agent.program();
    fs::remove_file(&program).unwrap();
    fs::write(&program, "no program").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = agent.order("upgrade");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("can't start"), "{told}");

    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(agent.served_by(), before);
    agent.logged("no new process takes over, and this one serves on");
}

#[test]
fn the_new_process_goes_by_what_a_reload_could_not_change() {
    let upstream = Upstream::mirror();
    let routes = [("a.example", &*upstream.address.to_string())];
    let mut agent = Agent::start_copy(&routes, "watch = false");
    let other = crate::agent::free_address();
    let configuration = agent.configuration(&routes).replace("workers = 2", "workers = 3");
    agent.write(&configuration.replace(&agent.https.to_string(), &other.to_string()));
    assert!(agent.order("upgrade").status.success());
    let old = agent.https;
    agent.https = other;
    let https = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n");
    assert_eq!(https.status(), 404);
    assert!(agent.wait().success());
    wait::until(PATIENCE, "nobody to listen there any more", || {
        (std::net::TcpStream::connect(old).is_err()).then_some(())
    })
    .unwrap();
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}
