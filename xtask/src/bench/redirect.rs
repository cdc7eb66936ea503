//! `cargo xtask bench redirect`: the ways to bring port 80 to a listener on 8080, beside no redirect at all.

mod flood;
mod flows;
mod udp;
mod way;

use std::net::SocketAddr;

use anyhow::Result;
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::topology::HOST;

use self::way::Way;
use super::Extent;
use super::load::Load;
use super::report::{Report, Verdict};
use super::series::{Better, Measurement, in_turn};
use super::upstream;

/// The port of the listener that everything is brought to.
pub(super) const TO: u16 = 8080;

/// What each way is to reach of no redirect at all.
const TARGETS: [(Way, f64); 2] = [(Way::Steer, 0.99), (Way::Rewrite, 0.96)];
const PEERS: [Way; 2] = [Way::Iptables, Way::Nftables];

/// A figure by wrk.
struct Case {
    name: &'static str,
    unit: &'static str,
    path: &'static str,
    close: bool,
    upload: usize,
    figure: fn(super::load::Tally, usize) -> f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "new connections",
        unit: "1/s",
        path: "/1k",
        close: true,
        upload: 0,
        figure: |tally, _| tally.rate(),
    },
    Case {
        name: "keep-alive requests",
        unit: "1/s",
        path: "/1k",
        close: false,
        upload: 0,
        figure: |tally, _| tally.rate(),
    },
    Case {
        name: "download",
        unit: "MB/s",
        path: "/100m",
        close: false,
        upload: 0,
        figure: |tally, _| tally.bytes / tally.seconds / 1e6,
    },
    Case {
        name: "upload",
        unit: "MB/s",
        path: "/upload",
        close: false,
        upload: 4 << 20,
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        figure: |tally, upload| tally.rate() * upload as f64 / 1e6,
    },
];

/// Measures.
///
/// # Errors
///
/// Not root, something is missing, or a request failed.
pub(super) fn measure(extent: Extent) -> Result<Report> {
    let playground = Playground::new()?;
    playground.topology.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    for netns in [&playground.topology.client, &playground.topology.host] {
        // What one way leaves in TIME_WAIT on port 8080 would refuse the first packets of the next way's connections.
        netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
    }
    let folder = playground.folder().join("upstream");
    let upstream = upstream::start(&playground.topology.host, AGENT, TO, 1, &folder)?;
    let mut report = Report::new("redirect", extent.quick);
    for case in &CASES {
        let mut measurement = Measurement::new(case.name, case.unit, Better::Higher);
        in_turn(extent.rounds, &Way::ALL, |way, counts| {
            let _applied = way.apply(&playground)?;
            let load = Load {
                netns: &playground.topology.client,
                url: format!("http://{}{}", SocketAddr::new(HOST.v4.into(), way.port()), case.path),
                host: None,
                connections: if case.close || case.name.starts_with("keep") { 32 } else { 2 },
                seconds: extent.seconds,
                close: case.close,
                upload: case.upload,
                pinned: false,
            };
            let tally = load.run(playground.folder())?;
            if counts {
                measurement.add(way.name(), (case.figure)(tally, case.upload));
            }
            Ok(())
        })?;
        judge(&mut report, &measurement);
        report.measurements.push(measurement);
    }
    let packets = udp::measure(&playground, extent)?;
    report.measurements.push(packets);
    if !extent.quick {
        drop(upstream);
        let _many = flows::server(&playground)?;
        flows::measure(&playground, extent, &mut report)?;
        flood::measure(&playground, extent, &mut report)?;
    }
    Ok(report)
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
