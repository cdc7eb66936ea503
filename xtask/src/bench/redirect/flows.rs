//! Whether requests cost more while many other connections are open, and while there are many rules.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use rprox_tests::command;
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::topology::{HOST, INTERFACE};

use super::super::Extent;
use super::super::ends::{self, Deed};
use super::super::load::Load;
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::super::upstream::{self, Upstream};
use super::TO;
use super::way::Way;

const FLOWS: [usize; 3] = [1, 1_000, 50_000];
const RULES: [u16; 3] = [1, 100, 10_000];
/// Of what the fewest allow, the share that the most must leave.
const FLAT: f64 = 0.95;

/// Requests per second, beside so many connections; then with so many rules.
pub(super) fn measure(playground: &Playground, extent: Extent, report: &mut Report) -> Result<()> {
    let ways = [Way::Direct, Way::Iptables, Way::Rewrite, Way::Steer];
    for way in ways {
        let mut measurement =
            Measurement::new(&format!("requests beside open flows, {}", way.name()), "1/s", Better::Higher);
        let _applied = way.apply(playground)?;
        let target = SocketAddr::new(HOST.v4.into(), way.port());
        in_turn(extent.rounds, &FLOWS, |flows, counts| {
            // The one flow is that of the load itself.
            let _held = ends::hold(
                &playground.topology.client,
                Deed::Hold,
                target,
                flows - 1,
                &playground.authority,
            )?;
            let rate = requests(playground, way.port(), extent)?;
            if counts {
                measurement.add(&flows.to_string(), rate);
            }
            Ok(())
        })?;
        flat(report, &measurement, &FLOWS.map(|flows| flows.to_string()));
        report.measurements.push(measurement);
    }
    for mode in ["rewrite", "steer"] {
        let mut measurement =
            Measurement::new(&format!("requests with rules, {mode}"), "1/s", Better::Higher);
        in_turn(extent.rounds, &RULES, |rules, counts| {
            attach(playground, mode, rules)?;
            let rate = requests(playground, 80, extent);
            playground.detach()?;
            if counts {
                measurement.add(&rules.to_string(), rate?);
            }
            Ok(())
        })?;
        flat(report, &measurement, &RULES.map(|rules| rules.to_string()));
        report.measurements.push(measurement);
    }
    Ok(())
}

fn requests(playground: &Playground, port: u16, extent: Extent) -> Result<f64> {
    let load = Load {
        netns: &playground.topology.client,
        url: format!("http://{}/1k", SocketAddr::new(HOST.v4.into(), port)),
        host: None,
        connections: 32,
        seconds: extent.seconds,
        close: false,
        upload: 0,
        pinned: false,
    };
    Ok(load.run(playground.folder())?.rate())
}

fn attach(playground: &Playground, mode: &str, rules: u16) -> Result<()> {
    let mut text = "redirect = [\"80:8080\"".to_owned();
    for rule in 1..rules {
        let _ = write!(text, ", \"{}:{}\"", 10_000 + rule, 30_000 + rule);
    }
    let file = playground.folder().join("rules.toml");
    std::fs::write(&file, text + "]\n").with_context(|| file.display().to_string())?;
    let mut loader = playground.loader("attach");
    command::run(loader.args(["--interface", INTERFACE, "--mode", mode, "--config"]).arg(&file)).map(drop)
}

fn flat(report: &mut Report, measurement: &Measurement, counts: &[String; 3]) {
    let target = format!("{}: {} at least {FLAT} of {}", measurement.name, counts[2], counts[0]);
    report.verdicts.push(Verdict::at_least(target, measurement.ratio(&counts[2], &counts[0]), FLAT));
}

/// A server that holds as many connections as all of them.
pub(super) fn server(playground: &Playground) -> Result<Upstream> {
    upstream::start(&playground.topology.host, AGENT, TO, 4, &playground.folder().join("upstream-4"))
}
