//! HAProxy.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::super::ends::PASSTHROUGH_HOST;
use super::{Door, Peer, Setting};

pub(super) fn command(program: &Path, setting: &Setting<'_>) -> Result<Command> {
    let [http, https] = [Door::Http, Door::Https].map(|door| Peer::Haproxy.at(door));
    let hosts: String = setting.hosts().map(|host| host + " pod\n").collect();
    let hosts = setting.write("haproxy.map", &hosts)?;
    let text = format!(
        "global
    nbthread 1
    maxconn 12000
    ulimit-n 20000
    no strict-limits
    tune.ssl.cachesize 20000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    http-reuse always
    option splice-auto
frontend bench
    bind {http} defer-accept backlog 16384
    bind {https} ssl crt {both} alpn h2,http/1.1 defer-accept backlog 16384
    option forwardfor
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    use_backend %[req.hdr(host),host_only,lower,map({hosts})]
backend pod
    server pod 127.0.0.1:{upstream}
{passthrough}",
        both = setting.both.display(),
        hosts = hosts.display(),
        upstream = setting.upstream,
        passthrough = setting.passthrough.map(passthrough).unwrap_or_default(),
    );
    let file = setting.write("haproxy.cfg", &text)?;
    let mut command = setting.command(program);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn passthrough(upstream: u16) -> String {
    format!(
        "frontend tls
    mode tcp
    bind {address} defer-accept backlog 16384
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend tls if {{ req.ssl_sni -i {PASSTHROUGH_HOST} }}
backend tls
    mode tcp
    server pod 127.0.0.1:{upstream}
",
        address = Peer::Haproxy.at(Door::Passthrough),
    )
}
