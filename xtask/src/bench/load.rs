//! Load from wrk and h2load, every response of which is accounted for.

mod h2load;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rprox_tests::command;
use rprox_tests::netns::Netns;

pub(super) use self::h2load::H2load;

/// The processor that load and upstream share; the proxy has the other one.
pub(super) const LOAD_PROCESSOR: &str = "1";

/// How long one round may take beyond its own time.
const GRACE: Duration = Duration::from_secs(20);

/// One round of wrk.
#[derive(Debug, Clone)]
pub(super) struct Load<'a> {
    /// Where it comes from.
    pub(super) netns: &'a Netns,
    /// What is asked for.
    pub(super) url: String,
    /// Connections at a time.
    pub(super) connections: usize,
    /// For how long.
    pub(super) seconds: u64,
    /// A connection for each request.
    pub(super) close: bool,
    /// Bytes to send in each request.
    pub(super) upload: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    /// Of the responses, heads included.
    pub(super) bytes: f64,
}

impl Tally {
    /// Requests per second.
    pub(super) fn rate(self) -> f64 {
        self.requests / self.seconds
    }
}

impl Load<'_> {
    /// Runs it. `scratch` is a folder for wrk's script.
    ///
    /// # Errors
    ///
    /// wrk is missing, or a response was not a 2xx or did not come: a fast 502 is no result.
    pub(super) fn run(&self, scratch: &Path) -> Result<Tally> {
        let script = scratch.join("wrk.lua");
        fs::write(&script, self.script()).with_context(|| script.display().to_string())?;
        let mut wrk = self.netns.command("taskset");
        wrk.args(["--cpu-list", LOAD_PROCESSOR, "wrk"]);
        wrk.args(["--threads", "1", "--timeout", "10s"])
            .arg("--connections")
            .arg(self.connections.to_string())
            .arg("--duration")
            .arg(format!("{}s", self.seconds))
            .arg("--script")
            .arg(&script)
            .arg(&self.url);
        let said = command::run_within(Duration::from_secs(self.seconds) + GRACE, &mut wrk)?;
        let figures = said.lines().find_map(|line| line.strip_prefix("tally "));
        let figures: Vec<f64> = figures
            .with_context(|| format!("wrk counted nothing: {said}"))?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [microseconds, requests, bytes, failed] = figures[..] else {
            bail!("wrk's script is broken: {said}")
        };
        if failed > 0.0 || requests == 0.0 {
            bail!("{failed} of {requests} requests to {} failed:\n{said}", self.url);
        }
        Ok(Tally { requests, seconds: microseconds / 1e6, bytes })
    }

    fn script(&self) -> String {
        let close = if self.close { "wrk.headers[\"Connection\"] = \"close\"\n" } else { "" };
        let upload = if self.upload > 0 {
            format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {})\n", self.upload)
        } else {
            String::new()
        };
        upload
            + close
            + "done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(\"tally %d %d %d %d\\n\", summary.duration, summary.requests, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"
    }
}
