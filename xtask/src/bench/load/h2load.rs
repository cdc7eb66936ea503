//! Load from h2load: so many requests, every response of which is counted, with its status and the bytes of its body.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::command;
use rprox_tests::netns::Netns;

use super::LOAD_PROCESSOR;

/// What is asked for, and how.
#[derive(Debug, Clone)]
pub(in super::super) struct H2load<'a> {
    /// Where it comes from.
    pub(in super::super) netns: &'a Netns,
    pub(in super::super) scheme: &'a str,
    pub(in super::super) host: &'a str,
    /// Where the requests for `host` go.
    pub(in super::super) target: SocketAddr,
    /// Concurrent streams of an HTTP/2 connection; `None` is HTTP/1.1.
    pub(in super::super) streams: Option<usize>,
    pub(in super::super) path: &'a str,
    /// Bytes of each response's body.
    pub(in super::super) length: usize,
    /// The file to send in each request.
    pub(in super::super) upload: Option<PathBuf>,
    /// A connection for each request.
    pub(in super::super) close: bool,
    /// Connections at a time.
    pub(in super::super) connections: usize,
    /// Whether the load keeps to its own processor.
    pub(in super::super) pinned: bool,
}

impl H2load<'_> {
    /// Sends `requests`. Returns how many came back for each second.
    ///
    /// # Errors
    ///
    /// h2load is missing, a response was not a 2xx or did not come, or the bodies are not as long as they should be.
    pub(in super::super) fn run(&self, requests: usize) -> Result<f64> {
        let mut h2load = self.command(self.connections.min(requests));
        let said = command::run(h2load.arg(format!("--requests={requests}")).arg(self.url()))?;
        let line = |start: &str| said.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        if !line("status codes:").starts_with(&format!("status codes: {requests} 2xx")) {
            bail!("not all of {requests} requests to {} were answered:\n{said}", self.url());
        }
        let data = line("traffic:").rsplit_once(" data").and_then(|(text, _)| within_brackets(text));
        if data != Some(requests * self.length) {
            bail!("the bodies of {requests} responses of {} are {data:?} bytes:\n{said}", self.url());
        }
        let rate = line("finished in ").split(", ").nth(1).and_then(|text| text.strip_suffix(" req/s"));
        rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("h2load took no time: {said}"))
    }

    /// Latency of requests that come at `rate` for each second, whether or not the earlier ones are answered: the 99th
    /// percentile in milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`Self::run`].
    pub(in super::super) fn p99_at(&self, rate: f64, seconds: u64, scratch: &Path) -> Result<f64> {
        let log = scratch.join("h2load.log");
        let _ = fs::remove_file(&log);
        let connections = u32::try_from(self.connections)?;
        let mut h2load = self.command(self.connections);
        h2load
            .arg(format!("--rps={:.0}", (rate / f64::from(connections)).max(1.0)))
            .arg(format!("--duration={seconds}"))
            .arg(format!("--log-file={}", log.display()))
            .arg(self.url());
        command::run(&mut h2load)?;
        let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        let mut times = Vec::new();
        for line in text.lines() {
            let mut fields = line.split('\t').skip(1);
            match (fields.next(), fields.next().and_then(|time| time.parse::<f64>().ok())) {
                (Some("200"), Some(time)) => times.push(time),
                _ => bail!("a request to {} was not answered: {line}", self.url()),
            }
        }
        times.sort_by(f64::total_cmp);
        let place = times.len() * 99 / 100;
        times.get(place).map(|time| time / 1e3).context("h2load logged no request")
    }

    fn command(&self, connections: usize) -> Command {
        let mut h2load = if self.pinned {
            let mut taskset = self.netns.command("taskset");
            taskset.args(["--cpu-list", LOAD_PROCESSOR, "h2load"]);
            taskset
        } else {
            self.netns.command("h2load")
        };
        h2load.arg(format!("--clients={connections}")).arg(format!("--connect-to={}", self.target));
        match self.streams {
            None => h2load.arg("--h1"),
            Some(streams) => h2load.arg(format!("--max-concurrent-streams={streams}")),
        };
        if self.close {
            h2load.arg("--header=Connection: close");
        }
        if let Some(file) = &self.upload {
            h2load.arg("--data").arg(file);
        }
        h2load
    }

    fn url(&self) -> String {
        format!("{}://{}:{}{}", self.scheme, self.host, self.target.port(), self.path)
    }
}

/// The number in the last brackets of `text`.
fn within_brackets(text: &str) -> Option<usize> {
    let (_, number) = text.rsplit_once('(')?;
    number.strip_suffix(')')?.parse().ok()
}
