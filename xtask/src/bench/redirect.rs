//! `cargo xtask bench redirect`: the ways to bring port 80 to a listener on 8080, beside no redirect at all.
//!
//! Both ends keep to one processor, so that a rate is the inverse of the processor time that both take together, and says nothing of who
//! woke whom.

mod flood;
mod flows;
mod host;
mod rules;
mod run_time;
mod udp;
mod way;

use std::net::SocketAddr;

use anyhow::Result;
use rprox_tests::playground::AGENT;

use self::host::Host;
use self::way::Way;
use super::Extent;
use super::load::{Load, Tally};
use super::report::{Report, Verdict};
use super::series::{Better, Measurement, in_turn};
use super::upstream;

/// The port of the listener that everything is brought to.
pub(super) const TO: u16 = 8080;

/// What each way is to reach of no redirect at all.
const TARGETS: [(Way, f64); 2] = [(Way::Steer, 0.99), (Way::Rewrite, 0.96)];
const PEERS: [Way; 2] = [Way::Iptables, Way::Nftables];

/// Of a round: two long ones of the same way are as far apart as two short ones, so that more rounds say more than longer ones.
const SECONDS: u64 = 1;

/// A figure by wrk.
struct Case {
    name: &'static str,
    unit: &'static str,
    path: &'static str,
    connections: usize,
    close: bool,
    upload: usize,
    /// Whether a quick run has it.
    short: bool,
    figure: fn(Tally, usize) -> f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "new connections",
        unit: "1/s",
        path: "/1k",
        connections: 32,
        close: true,
        upload: 0,
        short: true,
        figure: |tally, _| tally.rate(),
    },
    Case {
        name: "keep-alive requests",
        unit: "1/s",
        path: "/1k",
        connections: 32,
        close: false,
        upload: 0,
        short: true,
        figure: |tally, _| tally.rate(),
    },
    Case {
        // A connection's pace is as it begins, and no two begin alike: so there are hundreds in a round.
        name: "download",
        unit: "MB/s",
        path: "/10m",
        connections: 2,
        close: true,
        upload: 0,
        short: true,
        figure: |tally, _| tally.bytes / tally.seconds / 1e6,
    },
    Case {
        name: "upload",
        unit: "MB/s",
        path: "/upload",
        connections: 2,
        close: true,
        upload: 4 << 20,
        short: false,
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        figure: |tally, upload| tally.rate() * upload as f64 / 1e6,
    },
];

/// Measures.
///
/// # Errors
///
/// Not root, something is missing, or a request failed.
pub(super) fn measure(extent: Extent, only: Option<&str>) -> Result<Report> {
    let extent = Extent { seconds: SECONDS, ..extent };
    let rows = Rows { quick: extent.quick, only };
    flood::check_room()?;
    let host = Host::new()?;
    let mut report = Report::new("redirect", extent.quick);
    measure_ways(&host, extent, rows, &mut report)?;
    if rows.has(flows::NAME, false) {
        flows::measure(&host, extent, &mut report)?;
    }
    if rows.has(rules::NAME, false) {
        rules::measure(&host, extent, &mut report)?;
    }
    drop(host);
    if rows.has(flood::NAME, false) {
        flood::measure(extent, &mut report)?;
    }
    Ok(report)
}

/// Which rows are asked for.
#[derive(Clone, Copy)]
struct Rows<'a> {
    quick: bool,
    only: Option<&'a str>,
}

impl Rows<'_> {
    /// Whether the row `name` is, which a quick run has where it is `short`.
    fn has(self, name: &str, short: bool) -> bool {
        self.only.map_or(short || !self.quick, |text| name.contains(text))
    }
}

/// Everything that can be done to one rule and few connections.
fn measure_ways(host: &Host, extent: Extent, rows: Rows<'_>, report: &mut Report) -> Result<()> {
    let cases: Vec<&Case> = CASES.iter().filter(|case| rows.has(case.name, case.short)).collect();
    let (has_udp, has_run_time) = (rows.has(udp::NAME, true), rows.has(run_time::NAME, true));
    if cases.is_empty() && !has_udp && !has_run_time {
        return Ok(());
    }
    let folder = host.playground.folder().join("upstream");
    let _upstream = host.inside(|| {
        let topology = &host.playground.topology;
        upstream::start(&topology.host, AGENT, TO, 1, &folder)
    })?;
    let echo = udp::Echo::start(host)?;
    let ways = if extent.quick { &Way::QUICK[..] } else { &Way::ALL };
    let mut figures: Vec<_> =
        cases.iter().map(|case| Measurement::new(case.name, case.unit, Better::Higher)).collect();
    let mut datagrams = Measurement::new(udp::NAME, "1/s", Better::Higher);
    let mut run_time = run_time::RunTime::new();
    in_turn(extent.rounds, ways, |way, counts| {
        let applied = way.apply(host)?;
        // One case warms up for all.
        let cases = if counts { &cases[..] } else { &cases[..cases.len().min(1)] };
        for (case, measurement) in cases.iter().zip(&mut figures) {
            let tally = load(host, way, case, extent.seconds).run(host.playground.folder())?;
            if counts {
                measurement.add(way.name(), (case.figure)(tally, case.upload));
            }
        }
        if counts && has_run_time && way.has_programs() {
            run_time.add(way, || load(host, way, &CASES[0], 1).run(host.playground.folder()))?;
        }
        drop(applied);
        if counts && has_udp {
            let _applied = way.apply_for_udp(host)?;
            datagrams.add(way.name(), echo.round_trips(host, way, extent)?);
        }
        Ok(())
    })?;
    if has_udp {
        figures.push(datagrams);
    }
    for measurement in &figures {
        judge(report, measurement);
    }
    report.measurements.extend(figures);
    if has_run_time {
        report.measurements.extend(run_time.measurements());
    }
    Ok(())
}

/// wrk against a way.
fn load<'a>(host: &'a Host, way: Way, case: &Case, seconds: u64) -> Load<'a> {
    Load {
        netns: &host.playground.topology.client,
        url: format!("http://{}{}", SocketAddr::new(way.address().into(), way.port()), case.path),
        connections: case.connections,
        seconds,
        close: case.close,
        upload: case.upload,
    }
}

fn judge(report: &mut Report, measurement: &Measurement) {
    for (way, limit) in TARGETS {
        let target = format!("{}: {} at least {limit} of direct", measurement.name, way.name());
        let ratio = measurement.ratio(way.name(), Way::Direct.name());
        report.verdicts.push(Verdict::at_least(target, ratio, limit));
        for peer in PEERS {
            let target = format!("{}: {} ahead of {}", measurement.name, way.name(), peer.name());
            let ratio = measurement.ratio(way.name(), peer.name());
            report.verdicts.push(Verdict::at_least(target, ratio, 1.0));
        }
    }
}
