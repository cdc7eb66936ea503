//! Good clients while SYNs from random addresses pour in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rprox_tests::netns::Netns;
use rprox_tests::playground::AGENT;
use rprox_tests::process::Process;
use rprox_tests::topology::{CLIENT, HOST};

use super::super::Extent;
use super::super::report::{Report, Verdict};
use super::super::series::{Better, Measurement, in_turn};
use super::super::upstream;
use super::TO;
use super::host::Host;
use super::way::Way;

/// The row.
pub(super) const NAME: &str = "new connections answered under a SYN flood";

const ROUNDS: usize = 2;
/// Entries of conntrack's table: the kernel's own number would take a longer flood.
const CONNTRACK: u32 = 16_384;
/// Longer than the table takes to fill.
const FILLING: Duration = Duration::from_secs(3);
const FLOODED: Duration = Duration::from_secs(2);
/// Before a SYN that was lost is sent again.
const PATIENCE: Duration = Duration::from_millis(900);
const PACE: Duration = Duration::from_millis(5);
/// The flood has the processor to itself that nothing measured is on.
const FLOOD_PROCESSOR: &str = "0";

/// The share of good connections that are answered, and how full conntrack's table is, in per cent.
pub(super) fn measure(extent: Extent, report: &mut Report) -> Result<()> {
    let _limit = Limit::set(CONNTRACK)?;
    let mut answered = Measurement::new(NAME, "%", Better::Higher);
    let mut filled = Measurement::new("conntrack's table under a SYN flood", "%", Better::Lower);
    in_turn(extent.rounds.min(ROUNDS), &Way::QUICK, |way, counts| {
        // Another host each time: conntrack's entries outlive the rules that made them.
        let host = Host::new()?;
        let topology = &host.playground.topology;
        let folder = host.playground.folder().join("upstream");
        let _upstream = host.inside(|| upstream::start(&topology.host, AGENT, TO, 1, &folder))?;
        topology.host.ip(&format!("route add default via {}", CLIENT.v4))?;
        let _applied = way.apply(&host)?;
        let target = SocketAddr::new(HOST.v4.into(), way.port());
        let mut hping = topology.client.command("taskset");
        // A flood must not outlast a run that is killed.
        hping.args(["--cpu-list", FLOOD_PROCESSOR, "setpriv", "--pdeathsig", "KILL"]).args([
            "hping3",
            "--syn",
            "--flood",
            "--rand-source",
            "--destport",
            &way.port().to_string(),
            &HOST.v4.to_string(),
        ]);
        let flood = Process::start("hping3", hping)?;
        let full = fill(&topology.host, FILLING)?;
        let (served, tried) = topology.client.enter(|| good_clients(target, FLOODED))?;
        drop(flood);
        if counts {
            answered.add(way.name(), 100.0 * f64::from(served) / f64::from(tried));
            filled.add(way.name(), 100.0 * full);
        }
        Ok(())
    })?;
    for way in [Way::Rewrite, Way::Steer] {
        let target = format!("{}: {} answers every one", answered.name, way.name());
        report.verdicts.push(Verdict::at_least(target, answered.summary(way.name()), 100.0));
        let target = format!("{}: {} leaves it empty", filled.name, way.name());
        report.verdicts.push(Verdict::at_most(target, filled.summary(way.name()), 0.0));
    }
    report.measurements.extend([answered, filled]);
    Ok(())
}

/// Waits until conntrack's table is full, or it is clear that nothing fills it. Returns its fill.
fn fill(host: &Netns, time: Duration) -> Result<f64> {
    let end = Instant::now() + time;
    loop {
        let text = host.enter(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))??;
        let entries: u32 = text.trim().parse().context("conntrack's count")?;
        if entries >= CONNTRACK || Instant::now() >= end {
            return Ok(f64::from(entries) / f64::from(CONNTRACK));
        }
        std::thread::yield_now();
    }
}

/// Opens connections one after another and asks once on each. Returns how many were answered, and how many there were.
fn good_clients(target: SocketAddr, time: Duration) -> (u32, u32) {
    let end = Instant::now() + time;
    let (mut served, mut tried) = (0, 0);
    while Instant::now() < end {
        tried += 1;
        served += u32::from(ask(target).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")));
        std::thread::sleep(PACE);
    }
    (served, tried)
}

fn ask(target: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /load HTTP/1.1\r\nHost: flood.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Refuses to measure where conntrack's table is too small for the connections of one way after the other.
pub(super) fn check_room() -> Result<()> {
    let Ok(text) = fs::read_to_string(Limit::FILE) else { return Ok(()) };
    let entries: u32 = text.trim().parse().context(Limit::FILE)?;
    ensure!(
        entries > CONNTRACK,
        "net.netfilter.nf_conntrack_max is {entries}, as a run leaves it that is killed under its flood: set it to 262144, say"
    );
    Ok(())
}

/// A limit on conntrack's entries in each network namespace, which is the whole kernel's setting; taken back with this guard.
struct Limit {
    before: String,
}

impl Limit {
    const FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

    fn set(entries: u32) -> Result<Self> {
        let before = fs::read_to_string(Self::FILE).context(Self::FILE)?;
        fs::write(Self::FILE, entries.to_string()).context(Self::FILE)?;
        Ok(Self { before })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::FILE, self.before.trim()) {
            eprintln!("{} stays at {CONNTRACK}: {error}", Self::FILE);
        }
    }
}
