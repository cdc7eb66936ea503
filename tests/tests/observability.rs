//! What an operator sees of a running redirect: `status --watch`, and metrics for Prometheus.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use rprox_tests::command;
use rprox_tests::playground::{AGENT, Playground, SERVICES};
use rprox_tests::process::Process;
use rprox_tests::topology::{HOST, INTERFACE};
use rprox_tests::wait;
use rustix::process::Signal;

#[test]
fn watching_shows_rates_and_ends_on_ctrl_c() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    playground.start_loader(&["--mode", "rewrite"]).unwrap();
    let mut status = playground.loader("status");
    status.arg("--watch");
    let mut watch = Process::start("status --watch", status).unwrap();
    let load = playground.load(&SERVICES[1]);
    watch
        .wait_until("rates", |watch| watch.said().iter().any(|line| rates(line).is_some_and(shows_traffic)))
        .unwrap();
    load.finish().unwrap().assert_all_served();
    let before = watch.said().len();
    watch
        .wait_until("no traffic", |watch| {
            watch.said()[before..]
                .iter()
                .any(|line| rates(line).is_some_and(|rates| rates.iter().all(|rate| *rate == 0)))
        })
        .unwrap();
    watch.signal(Signal::INT).unwrap();
    assert!(watch.wait(wait::READY).unwrap().success());
    let said = watch.said();
    assert!(said.iter().any(|line| line.contains("packets in/s")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains('\x1b')), "{said:#?}");
}

/// The five rates of rule 80:8080, if `line` is its row and has them.
fn rates(line: &str) -> Option<[u64; 5]> {
    let cells: Vec<&str> = line.split(['│', '┆']).map(str::trim).collect();
    let place = cells.iter().position(|cell| *cell == "80:8080")?;
    let mut rates = [0; 5];
    for (rate, cell) in rates.iter_mut().zip(&cells[place + 1..]) {
        *rate = cell.parse().ok()?;
    }
    Some(rates)
}

#[test]
fn steered_connections_are_watched_and_their_packets_are_said_not_to_be_counted() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let file = playground.folder().join("rprox.prom");
    playground.start_loader(&["--mode", "steer", "--metrics-textfile", file.to_str().unwrap()]).unwrap();
    let mut status = playground.loader("status");
    status.arg("--watch");
    let mut watch = Process::start("status --watch", status).unwrap();
    let load = playground.load(&SERVICES[1]);
    let is_watched = |line: &String| {
        let cells: Vec<&str> = line.split(['│', '┆']).map(str::trim).collect();
        let row = cells.iter().position(|cell| *cell == "80:8080").map(|place| &cells[place + 1..]);
        row.is_some_and(|row| {
            row[..4] == ["not counted"; 4] && row[4].parse::<u64>().is_ok_and(|rate| rate > 0)
        })
    };
    watch.wait_until("a rate of connections", |watch| watch.said().iter().any(is_watched)).unwrap();
    load.finish().unwrap().assert_all_served();

    playground.topology.host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    let labels = format!("interface=\"{INTERFACE}\",rule=\"80:8080\"");
    let connections = format!("rprox_redirect_connections_total{{{labels}}}");
    wait::until(wait::READY, &connections, || value(&file, &connections).filter(|count| *count > 0)).unwrap();
    let packets = |rule: &str| {
        let labels = format!("interface=\"{INTERFACE}\",rule=\"{rule}\",direction=\"ingress\"");
        value(&file, &format!("rprox_redirect_packets_total{{{labels}}}"))
    };
    assert_eq!((packets("80:8080"), packets("443:8443/udp")), (None, Some(0)));
}

fn shows_traffic([packets_in, bytes_in, packets_out, bytes_out, connections]: [u64; 5]) -> bool {
    packets_in > 0 && bytes_in > packets_in && packets_out > 0 && bytes_out > packets_out && connections > 0
}

/// The value of a metric in the file; `None` if the file or the metric is not there.
fn value(file: &Path, metric: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_are_current_and_go_with_the_service() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let file = playground.folder().join("rprox.prom");
    playground.start_loader(&["--mode", "rewrite", "--metrics-textfile", file.to_str().unwrap()]).unwrap();
    let attached = format!("rprox_attached{{interface=\"{INTERFACE}\"}}");
    wait::until(wait::READY, "metrics", || (value(&file, &attached) == Some(1)).then_some(())).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);

    assert_eq!(playground.get("http://grafana.mydomain.com/").send().unwrap().status(), Some(200));
    // A change on the host has them written at once.
    playground.topology.host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    let labels = format!("interface=\"{INTERFACE}\",rule=\"80:8080\"");
    for direction in ["ingress", "egress"] {
        let metric = format!("rprox_redirect_packets_total{{{labels},direction=\"{direction}\"}}");
        wait::until(wait::READY, &metric, || value(&file, &metric).filter(|packets| *packets > 0)).unwrap();
    }
    assert!(value(&file, &format!("rprox_redirect_connections_total{{{labels}}}")) > Some(0));

    // Every sample has a type, and every line is one of the format's.
    let text = fs::read_to_string(&file).unwrap();
    let mut family = "";
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        match line.strip_prefix("# TYPE ") {
            Some(kind) => family = kind.split(' ').next().unwrap(),
            None => assert!(line.starts_with(&format!("{family}{{")) && !family.is_empty(), "{line}"),
        }
    }
    assert!(playground.loader.take().unwrap().stop().unwrap().success());
    assert!(!file.exists());
}

#[test]
fn a_folder_of_somebody_elses_takes_no_metrics_and_the_log_says_so() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let folder = playground.folder().join("prometheus");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(AGENT.id), Some(AGENT.id)).unwrap();
    let file = folder.join("rprox.prom");
    playground.start_loader(&["--metrics-textfile", file.to_str().unwrap()]).unwrap();
    playground.loader.as_mut().unwrap().wait_for_line("its folder must be root's").unwrap();
    assert!(!file.exists());
}

#[test]
fn the_kernel_programs_say_what_they_refuse_when_debugging() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    // Attached already, by programs that say nothing: `run` puts in ones that do.
    command::run(playground.loader("attach").args(["-i", INTERFACE])).unwrap();
    assert!(playground.is_redirected());
    playground.start_loader(&["--log-level", "debug"]).unwrap();
    let client = &playground.topology.client;
    let loader = playground.loader.as_mut().unwrap();
    let address = SocketAddr::new(HOST.v4.into(), 8443);
    let refused = |loader: &Process| {
        let said = loader.said();
        said.into_iter().filter(|line| line.contains("refused: a direct packet from")).collect::<Vec<_>>()
    };
    let mut sent = 0;
    loader
        .wait_until("a refused packet's line", |loader| {
            client.enter(|| send_datagrams(address)).unwrap();
            sent += DATAGRAMS;
            !refused(loader).is_empty()
        })
        .unwrap();
    let lines = refused(loader);
    let line = &lines[0];
    assert!(
        line.contains("DEBUG") && line.contains("198.51.100.10") && line.contains("to port 8443"),
        "{line}"
    );
    assert!(lines.len() < sent / 8, "{} lines for {sent} packets", lines.len());
    assert!(playground.loader.take().unwrap().stop().unwrap().success());
}

const DATAGRAMS: usize = 200;

/// Sends datagrams that nobody waits for.
fn send_datagrams(address: SocketAddr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for _ in 0..DATAGRAMS {
        socket.send_to(b"direct", address).unwrap();
    }
}
