//! Caddy.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Door, Peer, Setting};

pub(super) fn command(program: &Path, setting: &Setting<'_>) -> Result<Command> {
    let [http, https] = [Door::Http, Door::Https].map(|door| Peer::Caddy.at(door));
    let sites = |scheme: &str, port: u16| {
        setting.hosts().map(|host| format!("{scheme}://{host}:{port}")).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "{{
    admin off
    auto_https off
    default_bind 127.0.0.1
}}
{plain} {{
    reverse_proxy 127.0.0.1:{upstream}
}}
{secure} {{
    tls {cert} {key}
    reverse_proxy 127.0.0.1:{upstream}
}}
",
        plain = sites("http", http.port()),
        secure = sites("https", https.port()),
        upstream = setting.upstream,
        cert = setting.cert.display(),
        key = setting.key.display(),
    );
    let file = setting.write("Caddyfile", &text)?;
    let mut command = setting.command(program);
    command
        .env("GOMAXPROCS", "1")
        .env("XDG_DATA_HOME", &setting.folder)
        .env("XDG_CONFIG_HOME", &setting.folder);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    Ok(command)
}
