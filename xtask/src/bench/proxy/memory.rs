//! Memory of idle connections, and of a process in all.

use anyhow::{Context, Result};

use super::super::ends::{self, Deed};
use super::super::peers::{Door, Peer, Running};
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::Plan;
use super::testbed::Testbed;
use crate::steps::Step;

const CONNECTIONS: u32 = 10_000;

/// What is held, how many kibibytes each may take of rprox, and whether `--quick` has it.
const KINDS: [(Deed, &str, f64, bool); 2] =
    [(Deed::Hold, "an idle connection", 12.0, true), (Deed::HoldTls, "an idle TLS connection", 30.0, false)];

/// Kibibytes for each of ten thousand idle connections, after one request on each; and what all came to.
pub(super) fn measure(testbed: &Testbed, plan: Plan<'_>, report: &mut Report) -> Result<()> {
    // What it takes changes little from round to round, and a process that starts has no caches to warm.
    let rounds = if plan.extent.quick { 0 } else { 2 };
    for (deed, what, limit, quick) in KINDS {
        let name = format!("memory of {what}");
        if !plan.has(&name, quick) {
            continue;
        }
        let step = Step::begin(&name);
        let mut each = Measurement::new(&name, "KiB", Better::Lower);
        let mut total = InAll::new(&format!("{name}, 10,000"));
        let contenders: Vec<_> = Peer::ALL.into_iter().filter(|peer| peer.cannot_hold().is_none()).collect();
        in_turn(rounds, &contenders, |peer, _| {
            let running = peer.start(&testbed.setting())?;
            let before = running.memory()?;
            let door = if deed == Deed::Hold { Door::Http } else { Door::Https };
            let held =
                ends::hold(&testbed.netns, deed, peer.at(door), CONNECTIONS as usize, &testbed.authority);
            let held = held.with_context(|| peer.name())?;
            let after = running.memory()?;
            drop(held);
            each.add(peer.name(), kib(after.saturating_sub(before)) / f64::from(CONNECTIONS));
            total.add(peer, after);
            Ok(())
        })?;
        let target = format!("{what}: at most {limit} KiB");
        report.verdicts.push(Verdict::at_most(target, each.summary("rprox"), limit));
        step.finish("measured");
        report.measurements.push(each);
        total.finish(report);
        report.note_missing(&name, Peer::cannot_hold);
    }
    Ok(())
}

/// What each process has in all.
pub(super) struct InAll(Measurement);

impl InAll {
    /// At `what`.
    pub(super) fn new(what: &str) -> Self {
        Self(Measurement::new(&format!("{what}, memory in all"), "MiB", Better::Lower))
    }

    /// One more look at what `running` has.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(super) fn look(&mut self, running: &Running) -> Result<()> {
        self.add(running.peer, running.memory()?);
        Ok(())
    }

    fn add(&mut self, peer: Peer, bytes: u64) {
        self.0.add(peer.name(), kib(bytes) / 1024.0);
    }

    /// That is to be no more than nginx has.
    pub(super) fn finish(self, report: &mut Report) {
        let target = format!("{}: no more than nginx", self.0.name);
        report.verdicts.push(Verdict::at_most(target, self.0.ratio("rprox", "nginx"), 1.0));
        report.measurements.push(self.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
