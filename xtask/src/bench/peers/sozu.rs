//! Sōzu.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::super::ends::{HOST, PASSTHROUGH_HOST};
use super::{Door, Peer, Setting};

/// As many connections as two descriptors each allow, within the limit of a process.
const CONNECTIONS: usize = 10_000;

pub(super) fn command(program: &Path, setting: &Setting<'_>) -> Result<Command> {
    let [http, https] = [Door::Http, Door::Https].map(|door| Peer::Sozu.at(door));
    let mut text = format!(
        "command_socket = \"{folder}/sozu.sock\"
log_level = \"error\"
log_target = \"stdout\"
worker_count = 1
worker_automatic_restart = false
disable_cluster_metrics = true
max_connections = {CONNECTIONS}
max_buffers = 40000
front_timeout = 3600
back_timeout = 3600
request_timeout = 3600
activate_listeners = true
[[listeners]]
protocol = \"http\"
address = \"{http}\"
[[listeners]]
protocol = \"https\"
address = \"{https}\"
{passthrough}[clusters.pod]
protocol = \"http\"
backends = [{{ address = \"127.0.0.1:{upstream}\" }}]
frontends = [
    {{ address = \"{https}\", hostname = \"{HOST}\", certificate = \"{cert}\", key = \"{key}\", certificate_chain = \"{cert}\" }},
",
        folder = setting.folder.display(),
        upstream = setting.upstream,
        passthrough = setting.passthrough.map(passthrough).unwrap_or_default(),
        cert = setting.cert.display(),
        key = setting.key.display(),
    );
    for host in setting.hosts() {
        let _ = writeln!(text, "    {{ address = \"{http}\", hostname = \"{host}\" }},");
    }
    let file = setting.write("sozu.toml", &(text + "]\n"))?;
    let mut command = setting.command(program);
    command.args(["start", "--config"]).arg(file);
    Ok(command)
}

fn passthrough(upstream: u16) -> String {
    let address = Peer::Sozu.at(Door::Passthrough);
    format!(
        "[[listeners]]
protocol = \"tcp\"
address = \"{address}\"
[clusters.tls]
protocol = \"tcp\"
backends = [{{ address = \"127.0.0.1:{upstream}\" }}]
frontends = [{{ address = \"{address}\", hostname = \"{PASSTHROUGH_HOST}\" }}]
"
    )
}
