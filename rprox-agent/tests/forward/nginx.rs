//! nginx as an upstream.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};

use rprox_tests::{programs, wait};
use tempfile::TempDir;

use crate::agent::PATIENCE;

/// A running nginx, and the folder with all that it has.
pub(crate) struct Nginx {
    child: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one in `folder` with these `servers`, and waits until it listens on `address`, which is one of theirs.
    pub(crate) fn start(folder: TempDir, servers: &str, address: SocketAddr) -> Self {
        let configuration = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error; events {{}}\n\
             http {{ access_log off;\n\
             client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n\
             uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
             {servers} }}",
            folder = folder.path().display()
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let program = programs::nginx().expect("nginx is there; this test needs it (cargo xtask setup)");
        let child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .arg("-e")
            .arg(folder.path().join("error"))
            .arg("-c")
            .arg(&file)
            .spawn()
            .expect("nginx runs");
        let nginx = Self { child, _folder: folder };
        wait::until(PATIENCE, "nginx to listen", || (TcpStream::connect(address).is_ok()).then_some(()))
            .unwrap();
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
