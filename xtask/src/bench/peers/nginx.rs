//! nginx.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::ends::PASSTHROUGH_HOST;
use super::super::setup;
use super::{Door, Peer, Setting};

pub(super) fn command(program: &Path, setting: &Setting<'_>) -> Result<Command> {
    let [http, https] = [Door::Http, Door::Https].map(|door| Peer::Nginx.at(door));
    let folder = setting.folder.join("nginx");
    std::fs::create_dir_all(folder.join("temp"))?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path temp/{kind}; "))
        .concat();
    let mut names = String::new();
    for host in setting.hosts() {
        let _ = write!(names, " {host}");
    }
    let (module, stream) = setting.passthrough.map_or_else(|| Ok(Default::default()), passthrough)?;
    let text = format!(
        "{module}daemon off; master_process off; pid nginx.pid; error_log stderr warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; multi_accept on; }}
http {{
    access_log off; tcp_nodelay on; server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
    keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0;
    {temporary}
    upstream pod {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {http} deferred backlog=16384; listen {https} ssl http2 deferred backlog=16384;
        http2_max_requests 1000000000;
        server_name{names};
        ssl_certificate {cert}; ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m; ssl_session_tickets on;
        location / {{
            proxy_pass http://pod; proxy_http_version 1.1; proxy_set_header Connection \"\";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
            proxy_request_buffering off; proxy_max_temp_file_size 0;
            proxy_buffer_size 16k; proxy_buffers 8 32k;
        }}
        location = /echo {{
            proxy_pass http://pod; proxy_http_version 1.1; proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
        }}
    }}
}}
{stream}",
        upstream = setting.upstream,
        cert = setting.cert.display(),
        key = setting.key.display(),
    );
    std::fs::write(folder.join("nginx.conf"), text)?;
    let mut command = setting.command(program);
    command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "stderr"]);
    Ok(command)
}

/// What loads the module, and what it is to do. By itself nginx closes both directions once one has ended; the others, rprox among them, let
/// the other go on, as TCP has it, and so is it told to.
fn passthrough(upstream: u16) -> Result<(String, String)> {
    let module = setup::nginx_stream().context("no stream module of nginx: run `cargo xtask bench`")?;
    let stream = format!(
        "stream {{
    tcp_nodelay on; proxy_buffer_size 64k; proxy_half_close on;
    map $ssl_preread_server_name $pod {{ {PASSTHROUGH_HOST} 127.0.0.1:{upstream}; }}
    server {{ listen {address} backlog=16384; ssl_preread on; proxy_pass $pod; }}
}}
",
        address = Peer::Nginx.at(Door::Passthrough),
    );
    Ok((format!("load_module {};\n", module.display()), stream))
}
