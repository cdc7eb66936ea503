//! Load from wrk and h2load, every response of which is accounted for.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rprox_tests::command;
use rprox_tests::netns::Netns;

use super::ends::HOST;
use super::series::Summary;

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
    /// The `Host` field, where it is not the URL's.
    pub(super) host: Option<&'a str>,
    /// Connections at a time.
    pub(super) connections: usize,
    /// For how long.
    pub(super) seconds: u64,
    /// A connection for each request.
    pub(super) close: bool,
    /// Bytes to send in each request.
    pub(super) upload: usize,
    /// Whether the load keeps to one processor.
    pub(super) pinned: bool,
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
        let mut wrk = if self.pinned {
            let mut wrk = self.netns.command("taskset");
            wrk.args(["--cpu-list", LOAD_PROCESSOR, "wrk"]);
            wrk
        } else {
            self.netns.command("wrk")
        };
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
        let host = self.host.map(|host| format!("wrk.headers[\"Host\"] = \"{host}\"\n"));
        let close = if self.close { "wrk.headers[\"Connection\"] = \"close\"\n" } else { "" };
        let upload = if self.upload > 0 {
            format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {})\n", self.upload)
        } else {
            String::new()
        };
        host.unwrap_or_default()
            + close
            + &upload
            + "done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(\"tally %d %d %d %d\\n\", summary.duration, summary.requests, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"
    }
}

/// HTTP/2 by h2load: `requests` for `path` of the measured host, at `target`, over 4 connections with 100 streams each.
///
/// # Errors
///
/// h2load is missing, or a response was not a 2xx.
pub(super) fn http2(netns: &Netns, target: SocketAddr, path: &str, requests: usize) -> Result<Tally> {
    let url = format!("https://{HOST}:{}{path}", target.port());
    let mut h2load = netns.command("taskset");
    h2load
        .args(["--cpu-list", LOAD_PROCESSOR, "h2load", "--clients=4", "--max-concurrent-streams=100"])
        .arg(format!("--requests={requests}"))
        .arg(format!("--connect-to={target}"))
        .arg(&url);
    let said = command::run(&mut h2load)?;
    let succeeded = said.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    if !succeeded.contains(&format!("status codes: {requests} 2xx")) {
        bail!("not all of {requests} requests to {url} were answered:\n{said}");
    }
    let seconds = said
        .lines()
        .find_map(|line| duration(line.strip_prefix("finished in ")?.split(',').next()?))
        .with_context(|| format!("h2load took no time: {said}"))?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(Tally { requests: requests as f64, seconds, bytes: 0.0 })
}

/// Latency of HTTP/1.1 requests that come at `rate` for each second, whether or not the earlier ones are answered: the 99th
/// percentile in milliseconds.
///
/// # Errors
///
/// As [`http2`].
pub(super) fn p99_at(netns: &Netns, url: &str, rate: f64, seconds: u64, scratch: &Path) -> Result<f64> {
    const CLIENTS: u32 = 16;
    let log = scratch.join("h2load.log");
    let _ = fs::remove_file(&log);
    let each = (rate / f64::from(CLIENTS)).max(1.0);
    let mut h2load = netns.command("taskset");
    h2load
        .args(["--cpu-list", LOAD_PROCESSOR, "h2load", "--h1"])
        .arg(format!("--clients={CLIENTS}"))
        .arg(format!("--rps={each:.0}"))
        .arg(format!("--duration={seconds}"))
        .arg(format!("--log-file={}", log.display()))
        .arg(url);
    command::run(&mut h2load)?;
    let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let mut times = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        match (fields.next(), fields.next().and_then(|time| time.parse::<f64>().ok())) {
            (Some("200"), Some(time)) => times.push(time),
            _ => bail!("a request to {url} was not answered: {line}"),
        }
    }
    times.sort_by(f64::total_cmp);
    let place = times.len() * 99 / 100;
    times.get(place).map(|time| time / 1e3).context("h2load logged no request")
}

fn duration(text: &str) -> Option<f64> {
    let number = |suffix| text.trim().strip_suffix(suffix)?.parse::<f64>().ok();
    number("ms").map(|ms| ms / 1e3).or_else(|| number("us").map(|us| us / 1e6)).or_else(|| number("s"))
}

/// `median ± spread`, short enough for a table.
pub(super) fn show(summary: Summary) -> String {
    let digits = if summary.median >= 1000.0 {
        0
    } else if summary.median >= 10.0 {
        1
    } else {
        2
    };
    format!("{:.digits$} ±{:.0}%", summary.median, summary.spread() * 100.0)
}
