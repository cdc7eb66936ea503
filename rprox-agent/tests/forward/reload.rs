//! Another configuration comes into force while requests run.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc;

use rcgen::generate_simple_self_signed;
use rprox_tests::wait;
use rustix::process::Signal;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{connect, get, read_reply};
use crate::load::Load;
use crate::names;
use crate::upstream::Upstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// One that answers everything with `text`.
fn says(text: &'static str) -> Upstream {
    Upstream::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        true
    })
}

#[test]
fn under_load_no_request_fails_however_often_it_is_reloaded() {
    let (one, two) = (says("one"), says("two"));
    let (one, two) = (one.address.to_string(), two.address.to_string());
    let mut agent = Agent::start(&[("a.example", &one)], "");
    let load = Load::start(agent.http, "a.example");
    for round in 0..30 {
        let (address, text) = if round % 2 == 0 { (&two, "two") } else { (&one, "one") };
        agent.write(&agent.configuration(&[("a.example", address), ("b.example", address)]));
        let output = agent.order("reload");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(get(&agent, "a.example", "/").text(), text, "what is told to be in force is");
        load.proceed(50);
    }
    assert!(load.end() > 1500);
    agent.logged("the configuration was loaded anew");
}

#[test]
fn a_request_ends_by_the_rules_it_began_with_and_the_next_on_its_connection_goes_by_the_new() {
    let (old, held) = Upstream::held("old");
    let new = says("new");
    let agent = Agent::start(&[("a.example", &old.address.to_string())], "");
    let mut running = connect(agent.http);
    running.write_all(GET).unwrap();
    held.wait_for_request();
    agent.write(&agent.configuration(&[("a.example", &new.address.to_string())]));
    assert!(agent.order("reload").status.success());
    held.answer();
    assert_eq!(read_reply(&mut running).text(), "old");
    running.write_all(GET).unwrap();
    assert_eq!(read_reply(&mut running).text(), "new");
}

#[test]
fn a_configuration_with_a_mistake_is_refused_whole_and_the_old_one_stays() {
    let upstream = says("old");
    let address = upstream.address.to_string();
    let mut agent = Agent::start(&[("a.example", &address)], "");
    let bad = agent.configuration(&[("b.example", &address), ("c.example", "a:x")]);
    let line = bad.lines().position(|line| line.contains("a:x")).unwrap() + 1;
    agent.write(&bad);
    let output = agent.order("reload");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    let expected =
        format!("{}:{line}:12: upstream \"a:x\": the port must be a number", agent.file().display());
    assert!(told.contains(&expected), "{told}");
    agent.logged("the new configuration is refused, and the one in force stays");
    assert_eq!(get(&agent, "a.example", "/").text(), "old");
    assert_eq!(get(&agent, "b.example", "/").status(), 404);
    assert!(agent.admin("/status.json").1.contains("\"last_reload_refused\": true"));

    agent.write("this is = = no TOML");
    let output = agent.order("reload");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("rprox.toml:1:"));
}

#[test]
fn what_can_not_change_while_it_runs_is_refused_by_name() {
    let upstream = says("old");
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let other = agent.configuration(&[("a.example", &upstream.address.to_string())]);
    agent.write(&other.replace("workers = 2", "workers = 3"));
    let output = agent.order("reload");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("workers can't change while the agent runs"), "{told}");
}

#[test]
fn sighup_reloads() {
    let (old, new) = (says("old"), says("new"));
    let mut agent = Agent::start(&[("a.example", &old.address.to_string())], "watch = false");
    agent.write(&agent.configuration(&[("a.example", &new.address.to_string())]));
    agent.signal(Signal::HUP);
    agent.logged("the configuration was loaded anew");
    assert_eq!(get(&agent, "a.example", "/").text(), "new");
}

#[test]
fn all_who_order_a_reload_at_once_are_answered_and_what_was_written_before_is_in_force_then() {
    let (old, new) = (says("old"), says("new"));
    let agent = Agent::start(&[("a.example", &old.address.to_string())], "watch = false");
    let many: Vec<_> = (0..2000).map(|number| format!("h{number}.example")).collect();
    let address = new.address.to_string();
    let routes: Vec<_> = many.iter().map(|host| (host.as_str(), address.as_str())).collect();
    agent.write(&agent.configuration(&[&[("a.example", address.as_str())], routes.as_slice()].concat()));
    let ordered: Vec<_> = (0..8).map(|_| agent.ordering("reload").spawn().unwrap()).collect();
    for mut order in ordered {
        assert!(order.wait().unwrap().success());
        assert_eq!(get(&agent, "a.example", "/").text(), "new");
    }
    assert_eq!(get(&agent, "h1999.example", "/").text(), "new");
}

#[test]
fn a_file_that_changes_is_reloaded() {
    let (old, new) = (says("old"), says("new"));
    let agent = Agent::start(&[("a.example", &old.address.to_string())], "");
    agent.write(&agent.configuration(&[("a.example", &new.address.to_string())]));
    wait::until(PATIENCE, "the change to be noticed", || {
        (get(&agent, "a.example", "/").text() == "new").then_some(())
    })
    .unwrap();
}

#[test]
fn a_certificate_that_comes_after_the_configuration_which_names_it_is_noticed() {
    let upstream = says("here");
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let later = generate_simple_self_signed(["later.example".to_owned()]).unwrap();
    let configuration = agent.configuration(&[("a.example", &upstream.address.to_string())]);
    agent.write(&format!("{configuration}[[certificate]]\ncert = \"later.pem\"\nkey = \"later.key\"\n"));
    agent.logged("later.pem: No such file");
    for (name, text) in [("later.key", later.signing_key.serialize_pem()), ("later.pem", later.cert.pem())] {
        fs::write(agent.beside(name), text).unwrap();
    }
    agent.logged("the configuration was loaded anew");
    assert!(agent.admin("/status.json").1.contains("later.example"));
}

#[test]
fn a_name_that_no_route_leads_to_any_more_does_not_count_as_failing() {
    let upstream = says("here");
    let address = upstream.address.to_string();
    let more = format!("[dns]\nservers = \"{}\"\ntimeout = \"100ms\"\nattempts = 1", free_address());
    let agent = Agent::start(&[("a.example", &address), ("b.example", "nowhere.test.:80")], &more);
    assert_eq!(get(&agent, "b.example", "/").status(), 503);
    agent.metrics_with(&["rprox_dns_failing_names{serves=\"nothing\"} 1"]);
    agent.write(&agent.configuration(&[("a.example", &address)]));
    assert!(agent.order("reload").status.success());
    let metrics = agent.admin("/metrics").1;
    assert!(metrics.contains("\nrprox_dns_failing_names{serves=\"nothing\"} 0\n"), "{metrics}");
}

#[test]
fn connections_to_an_upstream_that_no_route_leads_to_any_more_are_dropped() {
    let (ended, ends) = mpsc::channel();
    let ended = Mutex::new(ended);
    let old = Upstream::start(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").unwrap();
        let mut byte = [0];
        let end = std::io::Read::read(stream, &mut byte);
        ended.lock().unwrap().send(matches!(end, Ok(0))).unwrap();
        false
    });
    let new = says("new");
    let agent = Agent::start(&[("a.example", &old.address.to_string())], "");
    assert_eq!(get(&agent, "a.example", "/").text(), "old");
    agent.write(&agent.configuration(&[("a.example", &new.address.to_string())]));
    assert!(agent.order("reload").status.success());
    assert!(ends.recv_timeout(PATIENCE).unwrap(), "closed, with nothing sent");
}

#[test]
fn the_service_manager_is_told_of_a_reload_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let upstream = says("old");
    let environment = [("NOTIFY_SOCKET", folder.path().join("notify"))];
    let agent = Agent::start_as(2, &[("a.example", &upstream.address.to_string())], "", &environment);
    let told = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    assert_eq!(told(), "READY=1\n");
    agent.signal(Signal::HUP);
    let reloading = told();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(told(), "READY=1\n");
}

#[test]
fn dns_servers_are_those_that_resolv_conf_names_now() {
    let upstream = says("found");
    names::serve_at("127.0.54.1:53", vec![]);
    names::serve_at("127.0.54.2:53", vec![Ipv4Addr::LOCALHOST]);
    let etc = tempfile::tempdir().unwrap();
    let name =
        |server: &str| fs::write(etc.path().join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
    name("127.0.54.1");
    let web = format!("web:{}", upstream.address.port());
    let quick = "[dns]\nmin_ttl = \"50ms\"\nmax_ttl = \"50ms\"\n";
    let mut agent = Agent::start_by(&[("a.example", &web)], quick, |program| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$ETC\" /etc && exec \"$0\" \"$@\"", program]);
        command.env("ETC", etc.path());
        command
    });
    let until = |status| {
        let look = || (get(&agent, "a.example", "/").status() == status).then_some(());
        wait::until(PATIENCE, &format!("status {status}"), look).unwrap();
    };
    until(502);
    name("127.0.54.2");
    until(200);

    // Nor do they wait for a mistake in the configuration to be mended.
    agent.write("this is = = no TOML");
    name("127.0.54.1");
    until(502);
    agent.logged("the new configuration is refused, and the one in force stays");
}
