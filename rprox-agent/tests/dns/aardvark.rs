//! A real aardvark-dns, by itself.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rprox_tests::wait;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const PROGRAM: &str = "/usr/lib/podman/aardvark-dns";

/// A container: its IPv4 address, its IPv6 address, and its names. An address may be empty.
pub(crate) type Container<'a> = (&'a str, &'a str, &'a str);

pub(crate) struct Aardvark {
    dir: TempDir,
    address: SocketAddr,
    pid: Pid,
    is_stopped: bool,
}

impl Aardvark {
    /// Starts one on `host`, a loopback address that no other test uses.
    pub(crate) fn start(host: &str, containers: &[Container<'_>]) -> Self {
        let free = UdpSocket::bind((host, 0)).unwrap().local_addr().unwrap();
        Self::start_on(free, containers)
    }

    pub(crate) fn start_on(address: SocketAddr, containers: &[Container<'_>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("testnet"), address, containers);
        let status = Command::new(PROGRAM)
            .arg("--config")
            .arg(dir.path())
            .args(["-p", &address.port().to_string(), "run"])
            .status()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}; this test needs the package aardvark-dns"));
        assert!(status.success(), "aardvark-dns: {status}");
        let pid_file = dir.path().join("aardvark.pid");
        let pid = wait_for("its pid file", || {
            fs::read_to_string(&pid_file).ok()?.trim().parse().ok().and_then(Pid::from_raw)
        });
        let dns = Self { dir, address, pid, is_stopped: false };
        wait_for("its first answer", || dns.answers().then_some(()));
        dns
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives it other containers.
    pub(crate) fn reload(&self, containers: &[Container<'_>]) {
        write(self.dir.path().join("testnet"), self.address, containers);
        kill_process(self.pid, Signal::HUP).unwrap();
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if std::mem::replace(&mut self.is_stopped, true) {
            return;
        }
        // It may be gone already, which is as good.
        let _ = kill_process(self.pid, Signal::KILL);
        wait_for("its end", || (test_kill_process(self.pid).is_err() || self.is_zombie()).then_some(()));
    }

    fn is_zombie(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    }

    /// Whether it answers a question for `x.`.
    fn answers(&self) -> bool {
        const QUESTION: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01";
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.send_to(QUESTION, self.address).is_ok() && socket.recv(&mut [0; 512]).is_ok()
    }
}

impl Drop for Aardvark {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write(path: PathBuf, address: SocketAddr, containers: &[Container<'_>]) {
    let mut text = format!("{}\n", address.ip());
    for (number, (v4, v6, names)) in containers.iter().enumerate() {
        writeln!(text, "{number:064x} {v4} {v6} {names}").unwrap();
    }
    fs::write(path, text).unwrap();
}

fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait::until(Duration::from_secs(10), what, look).unwrap()
}
