//! Ends of connections that no load generator and no web server is: connections that are held, handshakes, full or resumed,
//! WebSocket messages, and a server that reads an upload to its end before it answers. What they get is checked byte by byte.
//!
//! They are processes of their own (`cargo xtask bench-end`, which no help text shows): to keep to a processor, to be in a
//! network namespace, and since one process may have only so many descriptors.

mod client;
mod uploads;
mod websocket;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rprox_tests::command;
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::process::Process;

use super::load::LOAD_PROCESSOR;

/// The host that everything is asked for.
pub(super) const HOST: &str = "bench.test";
/// The host whose TLS is the upstream's.
pub(super) const PASSTHROUGH_HOST: &str = "passthrough.bench.test";

/// Connections of one process.
const EACH: usize = 10_000;
const READY: &str = "ready";

/// What an end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Deed {
    /// Opens connections, asks once on each, and holds them.
    Hold,
    /// The same over TLS.
    HoldTls,
    /// A full TLS handshake and a request, again and again.
    Handshakes,
    /// A resumed one.
    Resumptions,
    /// WebSocket messages, each of which is to come back.
    Messages,
    /// Listens, and takes whatever is uploaded; the count means nothing.
    Take,
    /// Listens, and sends back WebSocket messages; the count means nothing.
    Echo,
}

/// The flags of `cargo xtask bench-end`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    deed: Deed,
    target: SocketAddr,
    count: usize,
    /// The certificate to trust.
    authority: Option<PathBuf>,
}

/// Opens `count` connections from `netns` and holds them until the guards go.
///
/// # Errors
///
/// One was refused.
pub(super) fn hold(
    netns: &Netns,
    deed: Deed,
    target: SocketAddr,
    count: usize,
    trust: &Path,
) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for first in (0..count).step_by(EACH) {
        let mut command = netns.command(std::env::current_exe()?);
        let part = EACH.min(count - first);
        command.arg("bench-end").arg(deed.word()).args([target.to_string(), part.to_string()]).arg(trust);
        processes.push(Process::start("bench-end", command)?);
    }
    for process in &mut processes {
        wait_until_ready(process, "connections to be held")?;
    }
    Ok(processes)
}

/// Does `deed` to `target`, `count` times.
///
/// # Errors
///
/// One failed, or was not of the kind that was wanted.
pub(super) fn run(netns: &Netns, deed: Deed, target: SocketAddr, count: usize, trust: &Path) -> Result<()> {
    let mut command = netns.command("taskset");
    command.args(["--cpu-list", LOAD_PROCESSOR]).arg(std::env::current_exe()?);
    command.arg("bench-end").arg(deed.word()).args([target.to_string(), count.to_string()]).arg(trust);
    command::run(&mut command).map(drop)
}

/// Starts the server that does `deed` at `address`.
///
/// # Errors
///
/// It can't listen there.
pub(super) fn serve(netns: &Netns, user: Unprivileged, deed: Deed, address: SocketAddr) -> Result<Process> {
    let mut command = netns.command_as(user, "taskset");
    command.args(["--cpu-list", LOAD_PROCESSOR]).arg(std::env::current_exe()?);
    command.arg("bench-end").arg(deed.word()).args([&address.to_string(), "1"]);
    let mut process = Process::start("bench-end", command)?;
    wait_until_ready(&mut process, &format!("{address} to be listened on"))?;
    Ok(process)
}

fn wait_until_ready(process: &mut Process, what: &str) -> Result<()> {
    process.wait_until(what, |process| process.said().iter().any(|line| line == READY))
}

impl Deed {
    fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What the process does.
///
/// # Errors
///
/// A request failed.
pub(crate) fn act(arguments: &Arguments) -> Result<()> {
    let Arguments { deed, target, count, authority } = arguments;
    let trust = || authority.as_deref().context("TLS needs a certificate to trust");
    match deed {
        Deed::Hold => wait_with(&client::open(*target, *count)?),
        Deed::HoldTls => wait_with(&client::open_tls(*target, *count, trust()?)?),
        Deed::Handshakes => client::handshakes(*target, *count, trust()?, false)?,
        Deed::Resumptions => client::handshakes(*target, *count, trust()?, true)?,
        Deed::Messages => websocket::messages(*target, *count)?,
        Deed::Take => listen(*target, uploads::serve)?,
        Deed::Echo => listen(*target, websocket::serve)?,
    }
    Ok(())
}

/// Says that they are there, and keeps them until this process is ended.
fn wait_with<T>(held: &[T]) {
    println!("{READY}");
    while !held.is_empty() {
        thread::park();
    }
}

/// Gives each connection a thread of its own.
fn listen(address: SocketAddr, serve: fn(&std::net::TcpStream) -> Result<()>) -> Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    println!("{READY}");
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        // One that ends badly is seen at the other end.
        thread::spawn(move || serve(&stream));
    }
    Ok(())
}
