//! Pebble, a real ACME server for tests, with the DNS server that comes with it. Debian's package pebble has both.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rprox_tests::wait;
use tempfile::TempDir;

use crate::agent::{PATIENCE, free_address};

/// Where an ACME server will be, and what it shows there.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
}

/// A running one.
pub(crate) struct Pebble {
    /// A file with the root of the certificates that it issues.
    pub(crate) root: PathBuf,
    _server: Running,
    _dns: Running,
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
        Self { folder, address: free_address() }
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
        let names = free_address();
        let dns = quiet("pebble-challtestsrv")
            .args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &names.to_string(), "-management", &free_address().to_string()])
            .spawn()
            .expect("pebble-challtestsrv is there (Debian's package pebble)");
        let mut dns = Running(dns);
        let (server, root) = until("pebble is up", || {
            assert!(dns.0.try_wait().unwrap().is_none(), "pebble-challtestsrv ended");
            let management = free_address();
            let mut server = Running(self.server(names, management, http, https, more, environment));
            // A port may be another connection's for a moment, and pebble ends then.
            let root = self.folder.path().join("root.pem");
            while server.0.try_wait().unwrap().is_none() {
                if fetch(&format!("https://{}/dir", self.address), Path::new("/dev/null"))
                    && fetch(&format!("https://{management}/roots/0"), &root)
                {
                    return Some((server, root));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            None
        });
        Pebble { _server: server, _dns: dns, root }
    }

    fn server(
        &self,
        names: SocketAddr,
        management: SocketAddr,
        http: u16,
        https: u16,
        more: &str,
        environment: &[(&str, &str)],
    ) -> Child {
        let folder = self.folder.path();
        let configuration = format!(
            "{{\"pebble\": {{\"listenAddress\": \"{}\", \"managementListenAddress\": \"{management}\", \
             \"certificate\": \"{folder}/server.pem\", \"privateKey\": \"{folder}/server.key\", \
             \"httpPort\": {http}, \"tlsPort\": {https}{more}}}}}",
            self.address,
            folder = folder.display()
        );
        fs::write(folder.join("pebble.json"), configuration).unwrap();
        quiet("pebble")
            .args(["-dnsserver", &names.to_string(), "-config"])
            .arg(folder.join("pebble.json"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .envs(environment.iter().copied())
            .spawn()
            .expect("pebble is there (Debian's package pebble)")
    }
}

/// Whether `file` now holds what is at `url`.
fn fetch(url: &str, file: &Path) -> bool {
    let output = Command::new("curl").args(["-fsSk", "-o"]).arg(file).arg(url).output();
    output.expect("curl runs").status.success()
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until `look` sees what it looks for.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait::until(PATIENCE * 4, what, look).unwrap()
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
