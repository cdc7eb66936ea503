//! Memory of idle connections.

use anyhow::Result;

use super::super::Extent;
use super::super::ends::{self, Deed};
use super::super::peers::Peer;
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::Bench;

const CONNECTIONS: u32 = 10_000;

/// Kibibytes for each of ten thousand idle connections, after one request on each; and what all came to.
pub(super) fn measure(bench: &Bench, extent: Extent, report: &mut Report) -> Result<()> {
    // What it takes changes little from round to round.
    let rounds = extent.rounds.min(3);
    for (deed, name, limit) in
        [(Deed::Hold, "an idle connection", 12.0), (Deed::HoldTls, "an idle TLS connection", 30.0)]
    {
        let mut each = Measurement::new(&format!("memory of {name}"), "KiB", Better::Lower);
        let mut total =
            Measurement::new(&format!("memory in all, {name} 10,000 times"), "MiB", Better::Lower);
        in_turn(rounds, &Peer::ALL, |peer, counts| {
            let running = peer.start(&bench.setting(0))?;
            let before = running.memory()?;
            let target = if deed == Deed::Hold { peer.http() } else { peer.https() };
            let held = ends::hold(&bench.netns, deed, target, CONNECTIONS as usize, &bench.authority)?;
            let after = running.memory()?;
            drop(held);
            if counts {
                each.add(peer.name(), kib(after.saturating_sub(before)) / f64::from(CONNECTIONS));
                total.add(peer.name(), kib(after) / 1024.0);
            }
            Ok(())
        })?;
        let target = format!("{name}: at most {limit} KiB");
        report.verdicts.push(Verdict::at_most(target, each.summary("rprox"), limit));
        report.measurements.extend([each, total]);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
