//! Whether a new connection costs more where there are many rules, of which it needs the last.

use anyhow::Result;
use rprox_tests::playground::AGENT;

use super::super::Extent;
use super::super::report::Report;
use super::super::series::{Better, Measurement, in_turn};
use super::super::upstream;
use super::flows::flat;
use super::host::Host;
use super::way::Way;
use super::{CASES, TO, load};

/// What the rows' names begin with.
pub(super) const NAME: &str = "new connections with rules";

const RULES: [u16; 3] = [1, 100, 10_000];
const ROUNDS: usize = 7;

/// New connections per second, with so many rules.
pub(super) fn measure(host: &Host, extent: Extent, report: &mut Report) -> Result<()> {
    let folder = host.playground.folder().join("upstream-rules");
    let topology = &host.playground.topology;
    let _upstream = host.inside(|| upstream::start(&topology.host, AGENT, TO, 1, &folder))?;
    for way in [Way::Iptables, Way::Nftables, Way::Rewrite, Way::Steer] {
        let name = format!("{NAME}, {}", way.name());
        let mut measurement = Measurement::new(&name, "1/s", Better::Higher);
        in_turn(extent.rounds.min(ROUNDS), &RULES, |rules, counts| {
            let _applied = way.apply_with(host, rules)?;
            let tally = load(host, way, &CASES[0], 1).run(host.playground.folder())?;
            if counts {
                measurement.add(&rules.to_string(), tally.rate());
            }
            Ok(())
        })?;
        if way.has_programs() {
            flat(report, &measurement, &RULES.map(|rules| rules.to_string()));
        }
        report.measurements.push(measurement);
    }
    Ok(())
}
