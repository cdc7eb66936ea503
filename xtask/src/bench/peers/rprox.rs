//! rprox-agent.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::super::ends::{HOST, PASSTHROUGH_HOST};
use super::{Door, Peer, Setting, Various};

pub(super) fn command(program: &Path, setting: &Setting<'_>) -> Result<Command> {
    let [http, https] = [Door::Http, Door::Https].map(|door| Peer::Rprox.at(door));
    let mut text = format!(
        "workers = {}
[listen]
http = \"{http}\"
https = \"{https}\"
[log]
access = {}
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
        setting.various.is_some(),
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
    if let Some(upstream) = setting.passthrough {
        let _ = write!(
            text,
            "[[route]]\nhost = \"{PASSTHROUGH_HOST}\"\ntls = \"passthrough\"\nupstream = \"127.0.0.1:{upstream}\"\n"
        );
    }
    if let Some(Various { kinds, tls, authority }) = &setting.various {
        let _ = write!(
            text,
            "[[route]]
host = \"{HOST}\"
path = \"/1k\"
upstream = \"h2c://127.0.0.1:{}\"
https_redirect = false
[[route]]
host = \"{HOST}\"
path = \"/100k\"
upstream = [
  {{ to = \"https://127.0.0.1:{tls}\", ca = \"{}\", server_name = \"{PASSTHROUGH_HOST}\" }},
  \"127.0.0.1:{}\",
]
https_redirect = false
",
            kinds.http2,
            authority.display(),
            kinds.chunked,
        );
    }
    let file = setting.write("rprox.toml", &text)?;
    let mut command = setting.command(program);
    // As the others are run here.
    command.args(["run", "--allow-root", "--config"]).arg(file);
    Ok(command)
}
