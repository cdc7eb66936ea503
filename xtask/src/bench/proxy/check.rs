//! Whether every proxy gives the bodies that the upstream has, byte by byte, and brings uploads there.

use anyhow::{Context, Result, bail};
use rprox_tests::command;

use super::super::peers::{Door, Peer, Running};
use super::super::upstream::BODIES;
use super::testbed::Testbed;
use super::work::Case;

/// A door, and curl's flag for the version of HTTP.
pub(super) type Way = (Door, &'static str);

/// All of HTTP.
pub(super) const HTTP: [Way; 3] =
    [(Door::Http, "--http1.1"), (Door::Https, "--http1.1"), (Door::Https, "--http2")];
/// TLS that the upstream ends.
pub(super) const PASSTHROUGH: [Way; 1] = [(Door::Passthrough, "--http1.1")];

/// Asks for each body that is part of the load once each way, and uploads one.
///
/// # Errors
///
/// A body is not as it should be.
pub(super) fn bodies(testbed: &Testbed, running: &[Running], cases: &[&Case], ways: &[Way]) -> Result<()> {
    let asked_for = |path| cases.iter().any(|case| case.work.asks_for(path));
    let bodies: Vec<_> = BODIES.into_iter().filter(|(path, _)| asked_for(*path)).collect();
    for peer in running.iter().map(|running| running.peer) {
        for &way in ways {
            for &(path, length) in &bodies {
                let body = curl(testbed, peer, way, path, &[]).with_context(|| peer.name())?;
                if body.len() != length || body.bytes().any(|byte| byte != b'x') {
                    bail!("{} gave {} bytes for {path} by {way:?}", peer.name(), body.len());
                }
            }
            let file = format!("@{}", testbed.bodies().join("100k").display());
            // The upstream looks at all of it, and refuses what is not as it should be.
            curl(testbed, peer, way, "/upload", &["--data-binary", &file]).with_context(|| peer.name())?;
        }
    }
    Ok(())
}

fn curl(testbed: &Testbed, peer: Peer, way: Way, path: &str, flags: &[&str]) -> Result<String> {
    let (door, version) = way;
    let (host, address) = (door.host(), peer.at(door));
    let mut curl = testbed.netns.command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--resolve",
        &format!("{host}:{}:{}", address.port(), address.ip()),
    ]);
    curl.arg("--cacert").arg(&testbed.authority).arg(version).args(flags);
    curl.arg(format!("{}://{host}:{}{path}", door.scheme(), address.port()));
    command::run(&mut curl)
}
