//! Certificates from a real ACME server.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use rustix::process::Signal;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{ask_over_tls, connect, get, read_reply};
use crate::pebble::{Place, until, visit};
use crate::upstream::Upstream;

const HOST: &str = "acme.example";

fn agent(upstream: &Upstream, configuration: &str) -> Agent {
    Agent::start(&[(HOST, &upstream.address.to_string())], configuration)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_certificate_comes_by_either_challenge_and_is_kept() {
    let upstream = Upstream::mirror();
    for challenge in ["tls-alpn-01", "http-01"] {
        let place = Place::new();
        let configuration =
            place.configuration(&format!("contact = \"admin@example.com\"\nchallenge = \"{challenge}\""));
        let agent = agent(&upstream, &configuration);
        let pebble = place.start(agent.http.port(), agent.https.port(), "", &[]);
        until("a certificate that clients take", || {
            visit(HOST, agent.https, &pebble.root).filter(|status| status == "200")
        });

        let state = place.state();
        let kept = state.join(format!("certificates/{HOST}.pem"));
        let issued = fs::read(&kept).unwrap();
        assert_eq!((mode(&state), mode(&kept)), (0o700, 0o600));
        let account =
            fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
        assert_eq!(mode(&account.unwrap()), 0o600);
        drop(agent);

        let again = self::agent(&upstream, &configuration);
        assert_eq!(visit(HOST, again.https, &pebble.root).as_deref(), Some("200"), "from the first moment");
        assert_eq!(fs::read(&kept).unwrap(), issued, "no other was ordered");
    }
}

#[test]
fn certificates_are_renewed_without_a_gap() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let agent = agent(&upstream, &place.configuration(""));
    let pebble = place.start(
        agent.http.port(),
        agent.https.port(),
        ", \"certificateValidityPeriod\": 6",
        &[("PEBBLE_AUTHZREUSE", "100")],
    );
    until("a certificate", || visit(HOST, agent.https, &pebble.root));
    let kept = place.state().join(format!("certificates/{HOST}.pem"));
    let mut seen = vec![fs::read(&kept).unwrap()];
    until("two more certificates", || {
        assert_eq!(visit(HOST, agent.https, &pebble.root).as_deref(), Some("200"), "at any time");
        let now = fs::read(&kept).unwrap();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        (seen.len() == 3).then_some(())
    });
}

#[test]
fn a_server_that_is_late_and_refuses_nonces_is_asked_again() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let mut agent = agent(&upstream, &place.configuration(""));
    let line = agent.logged("no certificate by ACME");
    assert!(line.contains("refused"), "{line}");
    let environment = [("PEBBLE_WFE_NONCEREJECT", "20"), ("PEBBLE_AUTHZREUSE", "0")];
    let pebble = place.start(agent.http.port(), agent.https.port(), "", &environment);
    until("a certificate in spite of it", || visit(HOST, agent.https, &pebble.root));
}

#[test]
fn a_server_that_says_nothing_holds_up_no_handshake() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let server = TcpListener::bind(place.address).unwrap();
    server.set_nonblocking(true).unwrap();
    let agent = agent(&upstream, &place.configuration(""));
    let _asked = until("the server to be asked", || server.accept().ok());
    let start = Instant::now();
    let request = "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n";
    assert_eq!(ask_over_tls(&agent, "secure.example", request).status(), 404, "no route leads from there");
    assert_eq!(visit(HOST, agent.https, &place.folder.path().join("ca.pem")), None);
    assert!(start.elapsed() < PATIENCE / 4);
}

#[test]
fn where_one_challenge_does_not_reach_us_the_other_is_tried() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let mut agent = agent(&upstream, &place.configuration(""));
    let pebble = place.start(agent.http.port(), free_address().port(), "", &[]);
    let line = agent.logged("tls-alpn-01");
    assert!(line.contains("port 443"), "{line}");
    until("a certificate by the other", || visit(HOST, agent.https, &pebble.root));
}

#[test]
fn without_a_certificate_the_host_is_not_served_in_plain_either() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let mut agent = agent(&upstream, &place.configuration(""));
    let pebble = place.start(free_address().port(), free_address().port(), "", &[]);
    agent.logged("could not validate the host by tls-alpn-01");
    agent.logged("could not validate the host by http-01");
    assert_eq!(visit(HOST, agent.https, &pebble.root), None);
    let reply = get(&agent, HOST, "/");
    assert_eq!((reply.status(), reply.field("location")), (301, Some("https://acme.example/")));
    let reply = get(&agent, HOST, "/.well-known/acme-challenge/guessed");
    assert_eq!(reply.status(), 301, "no challenge is running");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn an_account_that_the_server_forgot_is_made_anew() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let configuration = place.configuration("");
    let first = agent(&upstream, &configuration);
    let pebble = place.start(first.http.port(), first.https.port(), "", &[]);
    until("a certificate", || visit(HOST, first.https, &pebble.root));
    drop((first, pebble));
    fs::remove_file(place.state().join(format!("certificates/{HOST}.pem"))).unwrap();

    let mut second = agent(&upstream, &configuration);
    let pebble = place.start(second.http.port(), second.https.port(), "", &[]);
    second.logged("knows our account no more");
    until("a certificate by another account", || visit(HOST, second.https, &pebble.root));
}

#[test]
fn a_certificate_that_can_t_be_kept_is_not_ordered() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let certificates = place.state().join("certificates");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&certificates).unwrap();
    let mut agent =
        Agent::start_by(&[(HOST, &upstream.address.to_string())], &place.configuration(""), |program| {
            let mut command = Command::new("unshare");
            let script =
                "mount --bind \"$DIR\" \"$DIR\" && mount -o remount,bind,ro \"$DIR\" && exec \"$0\" \"$@\"";
            command.args(["--mount", "sh", "-c", script, program]).env("DIR", &certificates);
            command
        });
    let _pebble = place.start(agent.http.port(), agent.https.port(), "", &[]);
    let line = agent.logged("Read-only file system");
    assert!(line.contains("state folder"), "{line}");
    let failed = || -> u32 {
        let metrics = agent.admin("/metrics").1;
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("rprox_acme_orders_total{result=\"failed\"} "));
        count.unwrap().parse().unwrap()
    };
    let before = failed();
    until("more attempts, now that the server is up", || (failed() >= before + 2).then_some(()));
    agent.metrics_with(&["rprox_acme_orders_total{result=\"issued\"} 0"]);
    let account = fs::read_dir(place.state()).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(account.filter(|path| path.is_file()).count(), 0, "nor is an account made for it");
}

#[test]
fn an_external_account_s_key_is_used_and_never_logged() {
    let upstream = Upstream::mirror();
    let place = Place::new();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let file = place.folder.path().join("eab.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    let binding = format!("eab_kid = \"kid-1\"\neab_key = \"{}\"", file.display());
    let agent = agent(&upstream, &format!("{}[log]\nlevel = \"debug\"", place.configuration(&binding)));
    let more = format!(
        ", \"externalAccountBindingRequired\": true, \"externalAccountMACKeys\": {{\"kid-1\": \"{key}\"}}"
    );
    let pebble = place.start(agent.http.port(), agent.https.port(), &more, &[]);
    until("a certificate", || visit(HOST, agent.https, &pebble.root));
    let lines = agent.log_lines();
    assert!(lines.iter().any(|line| line.contains("account https://")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(&key[..12])), "{lines:#?}");
}

/// Whether the process has the thread that orders certificates.
fn orders(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    names.any(|name| name.is_ok_and(|name| name == "acme\n"))
}

#[test]
fn of_two_processes_one_of_which_takes_over_only_one_orders() {
    let (begun, begins) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let goes = Mutex::new(goes);
    let upstream = Upstream::start(move |_, stream| {
        begun.send(()).unwrap();
        goes.lock().unwrap().recv_timeout(PATIENCE * 3).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let place = Place::new();
    let address = upstream.address.to_string();
    let mut agent =
        Agent::start_copy(&[(HOST, &address), ("*.plain.example", &address)], &place.configuration(""));
    let old = agent.pid();
    until("the old process orders", || orders(old).then_some(()));
    let mut running = connect(agent.http);
    running.write_all(b"GET / HTTP/1.1\r\nHost: a.plain.example\r\n\r\n").unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    agent.signal(Signal::USR2);
    agent.logged("a new process serves");
    let new = u32::try_from(agent.served_by()).unwrap();
    until("the old process orders no more", || (!orders(old)).then_some(()));
    until("the new one does", || orders(new).then_some(()));

    let pebble = place.start(agent.http.port(), agent.https.port(), "", &[]);
    until("a certificate", || {
        (agent.admin("/metrics").1.contains("\nrprox_acme_orders_total{result=\"issued\"} 1\n")).then_some(())
    });
    // The order is counted just before what it brought is written.
    until("it to be kept", || {
        fs::exists(place.state().join(format!("certificates/{HOST}.pem"))).unwrap().then_some(())
    });
    drop(pebble);
    go.send(()).unwrap();
    assert_eq!(read_reply(&mut running).status(), 200);
    drop(running);
    assert!(agent.wait().success());
}
