//! The metric that tells which limit was hit.

use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Agent, PATIENCE};

/// Waits until `limit` has been hit as often as this, at least.
pub(crate) fn wait_for(agent: &Agent, limit: &str, times: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = agent.admin("/metrics").1;
        let line = format!("rprox_limit_hits_total{{limit=\"{limit}\"}} ");
        let hits = metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok()).unwrap();
        if hits >= times {
            return;
        }
        assert!(Instant::now() < deadline, "{limit} was hit {hits} times, not {times}");
        thread::sleep(Duration::from_millis(10));
    }
}
