//! Whether requests cost more while many other connections are open.

use std::net::SocketAddr;

use anyhow::Result;
use rprox_tests::playground::AGENT;

use super::super::Extent;
use super::super::ends::{self, Deed};
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::super::upstream;
use super::host::Host;
use super::way::Way;
use super::{CASES, TO, load};

/// What the rows' names begin with.
pub(super) const NAME: &str = "requests beside open flows";

const FLOWS: [usize; 3] = [1, 1_000, 50_000];
/// Opening so many takes longer than the requests do: so they are opened less often, and serve for more rounds.
const OPENED: usize = 2;
const ROUNDS: usize = 4;
/// Addresses that no way has for itself. They are several: a client that has used up most of its ports for one takes long to find another,
/// and so does the NAT of iptables and nftables, for which all addresses of the host become its first one.
const ADDRESSES: [u8; 5] = [8, 9, 10, 11, 12];
const _: () = assert!(Way::ALL.len() < ADDRESSES[0] as usize, "each way has an address of its own");
/// Of what the fewest allow, the share that the most must leave.
pub(super) const FLAT: f64 = 0.95;

/// Requests per second, beside so many connections.
pub(super) fn measure(host: &Host, extent: Extent, report: &mut Report) -> Result<()> {
    let folder = host.playground.folder().join("upstream-4");
    // As many processes as hold all of them.
    let topology = &host.playground.topology;
    let _upstream = host.inside(|| upstream::start(&topology.host, AGENT, TO, 4, &folder))?;
    for way in &Way::QUICK {
        let name = format!("{NAME}, {}", way.name());
        let mut measurement = Measurement::new(&name, "1/s", Better::Higher);
        let _applied = way.apply(host)?;
        in_turn(extent.rounds.min(OPENED), &FLOWS, |flows, counts| {
            // The one flow is that of the load itself. Caches are warm without others.
            let (each, rounds) = if counts { (flows / ADDRESSES.len(), ROUNDS) } else { (0, 1) };
            let mut held = Vec::new();
            for number in ADDRESSES {
                let target = SocketAddr::new(Host::address(number).into(), way.port());
                let authority = &host.playground.authority;
                held.extend(ends::hold(&topology.client, Deed::Hold, target, each, authority)?);
            }
            for _ in 0..rounds {
                let tally = load(host, *way, &CASES[1], 1).run(host.playground.folder())?;
                if counts {
                    measurement.add(&flows.to_string(), tally.rate());
                }
            }
            Ok(())
        })?;
        if way.has_programs() {
            flat(report, &measurement, &FLOWS.map(|flows| flows.to_string()));
        }
        report.measurements.push(measurement);
    }
    Ok(())
}

/// Judges whether the most of `counts` leaves as much as the fewest.
pub(super) fn flat(report: &mut Report, measurement: &Measurement, counts: &[String; 3]) {
    let target = format!("{}: {} at least {FLAT} of {}", measurement.name, counts[2], counts[0]);
    report.verdicts.push(Verdict::at_least(target, measurement.ratio(&counts[2], &counts[0]), FLAT));
}
