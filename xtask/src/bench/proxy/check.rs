//! Whether every proxy gives the bodies that the upstream has, byte by byte, and brings uploads there.

use anyhow::{Context, Result, bail};
use rprox_tests::command;

use super::super::ends::HOST;
use super::super::peers::{Peer, Running};
use super::super::upstream::BODIES;
use super::testbed::Testbed;

/// The ways to ask: the scheme, and curl's flag for the version.
const WAYS: [(&str, &str); 3] = [("http", "--http1.1"), ("https", "--http1.1"), ("https", "--http2")];

/// Asks for each body once each way, and uploads one.
///
/// # Errors
///
/// A body is not as it should be.
pub(super) fn bodies(testbed: &Testbed, running: &[Running]) -> Result<()> {
    for peer in running.iter().map(|running| running.peer) {
        for way in WAYS {
            for (path, length) in BODIES {
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

fn curl(testbed: &Testbed, peer: Peer, way: (&str, &str), path: &str, flags: &[&str]) -> Result<String> {
    let (scheme, version) = way;
    let port = if scheme == "https" { peer.https().port() } else { peer.http().port() };
    let mut curl = testbed.netns.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
    curl.arg("--cacert").arg(&testbed.authority).arg(version).args(flags);
    curl.arg(format!("{scheme}://{HOST}:{port}{path}"));
    command::run(&mut curl)
}
