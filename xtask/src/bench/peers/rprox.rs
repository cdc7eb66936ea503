//! rprox-agent.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use rprox_tests::programs::Programs;

use super::Setting;

pub(super) fn command(setting: &Setting<'_>, http: SocketAddr, https: SocketAddr) -> Result<Command> {
    let mut text = format!(
        "workers = {}
[listen]
http = \"{http}\"
https = \"{https}\"
[log]
access = false
[limits]
connections = 18000
client_connections = 18000
requests = 1000000000
upstream_connections = 1024
[[certificate]]
cert = \"{}\"
key = \"{}\"
",
        setting.workers,
        setting.cert.display(),
        setting.key.display(),
    );
    for host in setting.hosts() {
        let upstream = setting.upstream;
        let _ = write!(
            text,
            "[[route]]\nhost = \"{host}\"\nupstream = \"127.0.0.1:{upstream}\"\nhttps_redirect = false\n"
        );
    }
    let file = setting.write("rprox.toml", &text)?;
    let mut command = setting.command(&Programs::find()?.agent);
    // As the others are run here.
    command.args(["run", "--allow-root", "--config"]).arg(file);
    Ok(command)
}
