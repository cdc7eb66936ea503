//! What rprox-agent does while the compiler is shown what it mostly does.

use std::path::Path;

use anyhow::Result;

use super::super::peers::Peer;
use super::testbed::Testbed;
use super::work::{CASES, PASSTHROUGH};
use crate::steps::Step;

/// Has `program` do each kind of work once, and once more with upstreams of other kinds: what never ran while it was trained is made
/// small, not fast.
///
/// # Errors
///
/// Not root, or a response was wrong.
pub(in super::super) fn train(program: &Path) -> Result<()> {
    super::needs_two_processors()?;
    let step = Step::begin("Train");
    let testbed = Testbed::new()?;
    let _upstream = testbed.upstream()?;
    for (setting, cases) in [
        (testbed.setting(), &CASES[..]),
        (testbed.with_various(), &CASES[..]),
        (testbed.with_passthrough(), &PASSTHROUGH[..]),
    ] {
        let running = Peer::Rprox.start_program(program, &setting)?;
        for case in cases {
            case.work.run(&testbed, Peer::Rprox, case.count)?;
        }
        // What it has counted is written when it ends.
        running.stop()?;
    }
    step.finish("each kind of work was done");
    Ok(())
}
