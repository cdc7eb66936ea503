//! Good clients while SYNs from random addresses pour in.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use rprox_tests::load::Load;
use rprox_tests::playground::Playground;
use rprox_tests::process::Process;
use rprox_tests::topology::{CLIENT, HOST};

use super::super::Extent;
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::way::Way;

/// The share of good requests that are answered, in per cent.
pub(super) fn measure(playground: &Playground, extent: Extent, report: &mut Report) -> Result<()> {
    let host = &playground.topology.host;
    host.ip(&format!("route add default via {}", CLIENT.v4))?;
    let mut measurement = Measurement::new("answered under a SYN flood", "%", Better::Higher);
    in_turn(extent.rounds.min(3), &Way::ALL, |way, counts| {
        let _applied = way.apply(playground)?;
        let mut hping = playground.topology.client.command("hping3");
        hping
            .args(["--syn", "--flood", "--rand-source", "--destport", &way.port().to_string()])
            .arg(HOST.v4.to_string());
        let flood = Process::start("hping3", hping)?;
        let target = SocketAddr::new(HOST.v4.into(), way.port());
        let load = Load::start(&playground.topology.client, target, "flood.test");
        // Whether any fails is what is asked.
        let _ = load.hold_for(Duration::from_secs(extent.seconds * 2));
        let tally = load.finish()?;
        drop(flood);
        if counts {
            let (served, failed) = (count(tally.served), count(tally.failures.len() as u64));
            measurement.add(way.name(), 100.0 * served / (served + failed).max(1.0));
        }
        Ok(())
    })?;
    for way in [Way::Rewrite, Way::Steer] {
        let target = format!("{}: {} serves every good client", measurement.name, way.name());
        report.verdicts.push(Verdict::at_least(target, measurement.summary(way.name()), 100.0));
    }
    report.measurements.push(measurement);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(requests: u64) -> f64 {
    requests as f64
}
