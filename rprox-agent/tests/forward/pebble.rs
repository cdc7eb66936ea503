//! Pebble, a real ACME server for tests, with the DNS server that comes with it. Debian's package pebble has both.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::agent::{PATIENCE, free_address};

/// Where an ACME server will be, and what it shows there.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    address: SocketAddr,
    management: SocketAddr,
}

/// A running one.
pub(crate) struct Pebble {
    server: Child,
    dns: Child,
    management: SocketAddr,
    folder: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        fs::write(folder.path().join("server.pem"), own.pem()).unwrap();
        fs::write(folder.path().join("server.key"), key.serialize_pem()).unwrap();
        Self { folder, address: free_address(), management: free_address() }
    }

    /// What an agent must have in its configuration to use it, with the state folder `state` in the same folder.
    pub(crate) fn configuration(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "state = \"{folder}/state\"\n[acme]\ndirectory = \"https://{}/dir\"\nca = \"{folder}/ca.pem\"\nagree_terms = true\n\
             retry = \"200ms\"\n{more}\n",
            self.address
        )
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts one that validates at these ports, with `more` in its configuration and environment.
    pub(crate) fn start(&self, http: u16, https: u16, more: &str, environment: &[(&str, &str)]) -> Pebble {
        let folder = self.folder.path();
        let configuration = format!(
            "{{\"pebble\": {{\"listenAddress\": \"{}\", \"managementListenAddress\": \"{}\", \
             \"certificate\": \"{folder}/server.pem\", \"privateKey\": \"{folder}/server.key\", \
             \"httpPort\": {http}, \"tlsPort\": {https}{more}}}}}",
            self.address,
            self.management,
            folder = folder.display()
        );
        fs::write(folder.join("pebble.json"), configuration).unwrap();
        let (names, control) = (free_address(), free_address());
        let dns = quiet("pebble-challtestsrv")
            .args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &names.to_string(), "-management", &control.to_string()])
            .spawn()
            .expect("pebble-challtestsrv is there (Debian's package pebble)");
        let server = quiet("pebble")
            .args(["-dnsserver", &names.to_string(), "-config"])
            .arg(folder.join("pebble.json"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .envs(environment.iter().copied())
            .spawn()
            .expect("pebble is there (Debian's package pebble)");
        Pebble { server, dns, management: self.management, folder: folder.to_owned() }
    }
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Pebble {
    /// A file with the root of the certificates that it issues.
    pub(crate) fn root(&self) -> PathBuf {
        let file = self.folder.join("root.pem");
        until("pebble tells its root", || {
            let url = format!("https://{}/roots/0", self.management);
            let output =
                Command::new("curl").args(["-fsSk", "-o"]).arg(&file).arg(url).output().expect("curl runs");
            output.status.success().then_some(())
        });
        file
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.dns] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `look` sees what it looks for.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The status that `https://host/` gives to a client that believes `root`; `None` where the connection fails.
pub(crate) fn visit(host: &str, https: SocketAddr, root: &Path) -> Option<String> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(root)
        .args(["--resolve", &format!("{host}:{}:127.0.0.1", https.port())])
        .arg(format!("https://{host}:{}/", https.port()))
        .output()
        .expect("curl runs");
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
