//! nginx as the server behind everything that is measured: bodies of fixed sizes, room for any upload, and what load asks for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::process::Process;
use rprox_tests::programs;

use super::ends::{self, Deed};
use super::load::LOAD_PROCESSOR;

/// Bodies that it serves, by their path.
pub(super) const BODIES: [(&str, usize); 4] =
    [("/1k", 1 << 10), ("/100k", 100 << 10), ("/10m", 10 << 20), ("/100m", 100 << 20)];

/// Where uploads are taken: nginx's own answer would come before the body.
const UPLOADS: u16 = 9100;
/// Where what comes over a WebSocket is sent back.
const ECHO: u16 = 9101;

/// The processes of the upstream.
pub(super) struct Upstream {
    nginx: Process,
    _ends: [Process; 2],
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // A master that is killed leaves its workers behind, and they would burden what is measured next.
        if let Err(error) = self.nginx.stop() {
            eprintln!("the upstream may still run: {error:#}");
        }
    }
}

/// How it is set up.
pub(super) struct Setup<'a> {
    pub(super) netns: &'a Netns,
    pub(super) user: Unprivileged,
    pub(super) port: u16,
    pub(super) workers: usize,
    /// For its files, and what it serves.
    pub(super) folder: &'a Path,
    pub(super) tls: Option<Tls<'a>>,
    pub(super) kinds: Option<Kinds>,
    /// Whether nginx keeps to the load's processor.
    pub(super) pinned: bool,
}

/// A second listener, on which it ends TLS.
pub(super) struct Tls<'a> {
    pub(super) port: u16,
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
}

/// Further listeners, on which it speaks as others' upstreams do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    /// HTTP/2 without TLS.
    pub(super) http2: u16,
    /// Responses whose length nobody knows beforehand: nginx looks through them for what to put in.
    pub(super) chunked: u16,
}

/// Starts it as `user` on `port`, nginx as `workers` processes, on any processor and without TLS.
///
/// # Errors
///
/// As for [`Setup::start`].
pub(super) fn start(
    netns: &Netns,
    user: Unprivileged,
    port: u16,
    workers: usize,
    folder: &Path,
) -> Result<Upstream> {
    Setup { netns, user, port, workers, folder, tls: None, kinds: None, pinned: false }.start()
}

impl Setup<'_> {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// nginx is missing or does not start.
    pub(super) fn start(&self) -> Result<Upstream> {
        let Self { netns, user, port, folder, .. } = *self;
        let nginx = programs::nginx().context("no nginx: run `cargo xtask setup`")?;
        fs::create_dir_all(folder.join("temp"))?;
        for owned in [folder, &folder.join("temp")] {
            std::os::unix::fs::chown(owned, Some(user.id), Some(user.id))?;
        }
        for (path, length) in BODIES {
            fs::write(folder.join(path.trim_start_matches('/')), vec![b'x'; length])?;
        }
        fs::write(folder.join("nginx.conf"), self.configuration())?;
        let ends = [
            ends::serve(netns, user, Deed::Take, (Ipv4Addr::LOCALHOST, UPLOADS).into())?,
            ends::serve(netns, user, Deed::Echo, (Ipv4Addr::LOCALHOST, ECHO).into())?,
        ];
        let mut command = if self.pinned {
            let mut taskset = netns.command_as(user, "taskset");
            taskset.args(["--cpu-list", LOAD_PROCESSOR]).arg(nginx);
            taskset
        } else {
            netns.command_as(user, nginx)
        };
        command.arg("-p").arg(folder).args(["-c", "nginx.conf", "-e", "stderr"]);
        let mut process = Process::start("upstream", command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_until(&format!("{address} to answer"), |_| netns.can_connect(address))?;
        Ok(Upstream { nginx: process, _ends: ends })
    }

    fn configuration(&self) -> String {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path temp/{kind}; "))
            .concat();
        let Self { port, workers, .. } = self;
        let (uploads, echo) = (UPLOADS, ECHO);
        // Workers that share a listener leave most connections to one of them, which may not hold so many.
        let shared = if *workers > 1 { " reuseport" } else { "" };
        let tls = self.tls.as_ref().map_or_else(String::new, |Tls { port, cert, key }| {
            let (cert, key) = (cert.display(), key.display());
            format!(
                "listen 127.0.0.1:{port} ssl backlog=16384; ssl_certificate {cert}; ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;
        "
            )
        });
        let kinds = self.kinds.map_or_else(String::new, |Kinds { http2, chunked }| {
            format!(
                "server {{ listen 127.0.0.1:{http2} http2; root .; }}
    server {{ listen 127.0.0.1:{chunked}; root .; ssi on; ssi_types *; }}"
            )
        });
        format!(
            "daemon off; worker_processes {workers}; pid nginx.pid; error_log stderr warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; multi_accept on; }}
http {{
    access_log off; default_type text/plain; sendfile on; tcp_nopush on; tcp_nodelay on; open_file_cache max=10;
    keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0; reset_timedout_connection on;
    {temporary}
    upstream uploads {{ server 127.0.0.1:{uploads}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        {tls}listen 0.0.0.0:{port} backlog=16384{shared}; listen [::]:{port} ipv6only=on backlog=16384{shared};
        root .;
        location = /load {{ return 200 load; }}
        location = /upload {{
            proxy_pass http://uploads; proxy_http_version 1.1; proxy_set_header Connection \"\";
            proxy_request_buffering off;
        }}
        location = /echo {{
            proxy_pass http://127.0.0.1:{echo}; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
        }}
    }}
    {kinds}
}}
"
        )
    }
}
