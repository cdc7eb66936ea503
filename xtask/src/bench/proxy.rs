//! `cargo xtask bench proxy`: processor time and memory of each proxy for the same work.
//!
//! A proxy has one processor to itself; load and upstream share the other and saturate first, so that requests per second
//! say little, and processor time for a request is the figure.

mod memory;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use rprox_tests::certificates::Authority;
use rprox_tests::command;
use rprox_tests::netns::Netns;
use rprox_tests::playground::AGENT;
use rprox_tests::run_dir::RunDir;

use super::Extent;
use super::ends::{self, Deed, HOST};
use super::load::{self, Load};
use super::peers::{Peer, Running, Setting};
use super::report::{Report, Verdict};
use super::series::{Better, Measurement, in_turn};
use super::upstream::{self, BODIES};

const UPSTREAM: u16 = 9000;

/// Work whose cost is measured.
struct Case {
    name: &'static str,
    work: Work,
    /// Whether `--quick` has it too.
    quick: bool,
}

#[derive(Clone, Copy)]
enum Work {
    /// Requests by wrk.
    Requests { secure: bool, path: &'static str, connections: usize, close: bool, upload: usize },
    /// HTTP/2 by h2load, so many requests.
    Http2 { path: &'static str, requests: usize },
    /// Handshakes, so many.
    Handshakes { deed: Deed, count: usize },
}

const CASES: [Case; 11] = [
    Case { name: "HTTP/1.1, keep-alive, 1 KiB", work: get(false, "/1k", 32, false), quick: true },
    Case { name: "HTTP/1.1, new connections, 1 KiB", work: get(false, "/1k", 32, true), quick: true },
    Case { name: "HTTP/1.1, keep-alive, 100 KiB", work: get(false, "/100k", 16, false), quick: true },
    Case { name: "HTTP/1.1, keep-alive, 100 MiB", work: get(false, "/100m", 2, false), quick: false },
    Case { name: "HTTP/1.1, upload, 100 KiB", work: post(false, 16, 100 << 10), quick: true },
    Case { name: "HTTP/1.1, upload, 100 MiB", work: post(false, 2, 100 << 20), quick: false },
    Case { name: "TLS, keep-alive, 1 KiB", work: get(true, "/1k", 32, false), quick: true },
    Case { name: "TLS, keep-alive, 100 KiB", work: get(true, "/100k", 16, false), quick: false },
    Case {
        name: "TLS 1.3, full handshakes",
        work: Work::Handshakes { deed: Deed::Handshakes, count: 500 },
        quick: true,
    },
    Case {
        name: "TLS 1.3, resumed handshakes",
        work: Work::Handshakes { deed: Deed::Resumptions, count: 500 },
        quick: true,
    },
    Case {
        name: "HTTP/2, 100 streams, 1 KiB",
        work: Work::Http2 { path: "/1k", requests: 50_000 },
        quick: true,
    },
];

const fn get(secure: bool, path: &'static str, connections: usize, close: bool) -> Work {
    Work::Requests { secure, path, connections, close, upload: 0 }
}

const fn post(secure: bool, connections: usize, upload: usize) -> Work {
    Work::Requests { secure, path: "/upload", connections, close: false, upload }
}

/// Where it all happens.
struct Bench {
    netns: Netns,
    authority: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    both: PathBuf,
    // Before the namespace in what `measure` drops: processes first.
    run_dir: RunDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let run_dir = RunDir::new()?;
        let netns = Netns::new("bench")?;
        netns.sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
        let authority = Authority::new()?;
        let made = authority.sign(HOST)?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = run_dir.path().join(name);
            std::fs::write(&file, text)?;
            Ok(file)
        };
        Ok(Self {
            authority: write("ca.pem", &authority.pem())?,
            cert: write("cert.pem", &made.certificate)?,
            key: write("key.pem", &made.key)?,
            both: write("both.pem", &format!("{}{}", made.certificate, made.key))?,
            netns,
            run_dir,
        })
    }

    fn folder(&self) -> &Path {
        self.run_dir.path()
    }

    fn setting(&self, other_hosts: usize) -> Setting<'_> {
        Setting {
            netns: &self.netns,
            folder: self.folder().to_path_buf(),
            upstream: UPSTREAM,
            other_hosts,
            cert: self.cert.clone(),
            key: self.key.clone(),
            both: self.both.clone(),
        }
    }

    fn load(&self, target: SocketAddr, work: Work, extent: Extent) -> Option<Load<'_>> {
        let Work::Requests { secure, path, connections, close, upload } = work else { return None };
        let scheme = if secure { "https" } else { "http" };
        Some(Load {
            netns: &self.netns,
            url: format!("{scheme}://{target}{path}"),
            host: Some(HOST),
            connections,
            seconds: extent.seconds,
            close,
            upload,
            pinned: true,
        })
    }

    /// Does the work once. Returns how many requests it was.
    fn work(&self, peer: Peer, work: Work, extent: Extent) -> Result<f64> {
        Ok(match work {
            Work::Requests { secure, .. } => {
                let target = if secure { peer.https() } else { peer.http() };
                let load = self.load(target, work, extent);
                load.map(|load| load.run(self.folder())).transpose()?.map_or(0.0, |tally| tally.requests)
            }
            Work::Http2 { path, requests } => {
                load::http2(&self.netns, peer.https(), path, requests)?.requests
            }
            Work::Handshakes { deed, count } => {
                ends::handshakes(&self.netns, deed, peer.https(), count, &self.authority)?;
                f64::from(u32::try_from(count)?)
            }
        })
    }

    /// Asks for each body once, and compares it.
    fn check(&self, running: &[Running]) -> Result<()> {
        for peer in running.iter().map(|running| running.peer) {
            for (path, length) in BODIES {
                let mut curl = self.netns.command("curl");
                let resolve = format!("{HOST}:{}:127.0.0.1", peer.https().port());
                curl.args(["--silent", "--fail", "--resolve", &resolve, "--cacert"]).arg(&self.authority);
                curl.arg(format!("https://{HOST}:{}{path}", peer.https().port()));
                let body = command::run(&mut curl)?;
                if body.len() != length || body.bytes().any(|byte| byte != b'x') {
                    bail!("{} gave {} bytes for {path}", peer.name(), body.len());
                }
            }
        }
        Ok(())
    }
}

/// Measures.
///
/// # Errors
///
/// Not root, a peer is missing, there is only one processor, or a response was wrong.
pub(super) fn measure(extent: Extent) -> Result<Report> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("a proxy needs one processor to itself, and load and upstream another; this machine has one");
    }
    let bench = Bench::new()?;
    let _upstream = upstream::start(&bench.netns, AGENT, UPSTREAM, 1, &bench.folder().join("upstream"))?;
    let mut report = Report::new("proxy", extent.quick);
    let running = start_all(&bench, 0)?;
    bench.check(&running)?;
    for case in CASES.iter().filter(|case| case.quick || !extent.quick) {
        report.measurements.push(cost(&bench, &running, case.name, case.work, extent)?);
    }
    if !extent.quick {
        report.measurements.push(latency(&bench, &running, extent)?);
    }
    drop(running);
    memory::measure(&bench, extent, &mut report)?;
    let hosts = start_all(&bench, 1_000)?;
    report.measurements.push(cost(
        &bench,
        &hosts,
        "HTTP/1.1, keep-alive, 1,000 routes",
        CASES[0].work,
        extent,
    )?);
    drop(hosts);
    for measurement in &report.measurements {
        let target = format!("{}: no more than the best peer", measurement.name);
        let ratio = measurement.best_other("rprox").and_then(|best| measurement.ratio("rprox", best));
        report.verdicts.push(Verdict::at_most(target, ratio, 1.0));
    }
    routes(&bench, extent, &mut report)?;
    Ok(report)
}

fn start_all(bench: &Bench, other_hosts: usize) -> Result<Vec<Running>> {
    let setting = bench.setting(other_hosts);
    Peer::ALL.into_iter().map(|peer| peer.start(&setting)).collect()
}

/// Processor time for a request.
fn cost(bench: &Bench, running: &[Running], name: &str, work: Work, extent: Extent) -> Result<Measurement> {
    let mut measurement = Measurement::new(name, "µs/request", Better::Lower);
    let contenders: Vec<&Running> = running.iter().collect();
    in_turn(extent.rounds, &contenders, |running, counts| {
        let before = running.processor_time()?;
        let requests = bench.work(running.peer, work, extent)?;
        let used = running.processor_time()?.saturating_sub(before);
        if counts {
            measurement.add(running.peer.name(), used.as_secs_f64() * 1e6 / requests);
        }
        Ok(())
    })?;
    Ok(measurement)
}

/// The 99th percentile of latency, at half of the rate at which the slowest to saturate does.
fn latency(bench: &Bench, running: &[Running], extent: Extent) -> Result<Measurement> {
    let mut least = f64::INFINITY;
    for running in running {
        if let Some(load) = bench.load(running.peer.http(), CASES[0].work, extent) {
            least = least.min(load.run(bench.folder())?.rate());
        }
    }
    let mut measurement = Measurement::new("99th percentile of latency at half load", "ms", Better::Lower);
    let contenders: Vec<&Running> = running.iter().collect();
    in_turn(extent.rounds, &contenders, |running, counts| {
        let url = format!("http://{}/1k", running.peer.http());
        let p99 = load::p99_at(&bench.netns, &url, least / 2.0, extent.seconds, bench.folder())?;
        if counts {
            measurement.add(running.peer.name(), p99);
        }
        Ok(())
    })?;
    Ok(measurement)
}

/// Whether a request costs the same with one route and with ten thousand.
fn routes(bench: &Bench, extent: Extent, report: &mut Report) -> Result<()> {
    const ROUTES: [usize; 2] = [1, 10_000];
    let mut measurement = Measurement::new("HTTP/1.1, keep-alive, by routes", "µs/request", Better::Lower);
    in_turn(extent.rounds, &ROUTES, |routes, counts| {
        let running = Peer::Rprox.start(&bench.setting(routes - 1))?;
        // What it does once, when a route is first used, is no request's.
        bench.work(Peer::Rprox, CASES[0].work, Extent { seconds: 1, ..extent })?;
        let before: Duration = running.processor_time()?;
        let requests = bench.work(Peer::Rprox, CASES[0].work, extent)?;
        let used = running.processor_time()?.saturating_sub(before);
        if counts {
            measurement.add(&format!("rprox, {routes}"), used.as_secs_f64() * 1e6 / requests);
        }
        Ok(())
    })?;
    let ratio = measurement.ratio("rprox, 10000", "rprox, 1");
    report.verdicts.push(Verdict::at_most("10,000 routes: at most 1.05 of one".to_owned(), ratio, 1.05));
    report.measurements.push(measurement);
    Ok(())
}
