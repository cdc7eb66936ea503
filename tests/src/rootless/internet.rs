//! What is on the Internet, which the client's place stands for: a name server that knows the host by every name, and an ACME server.

use std::path::PathBuf;

use anyhow::Result;

use super::Host;
use crate::certificates::Authority;
use crate::command;
use crate::process::Process;
use crate::topology::{CLIENT, HOST};

/// The ACME server's name.
const ACME: &str = "acme.test";

/// Both servers; ended with this guard.
#[derive(Debug)]
pub struct Internet {
    _names: Process,
    acme: Process,
    folder: PathBuf,
}

impl Internet {
    /// Starts both: pebble, which validates at ports 80 and 443 as Let's Encrypt does, and the name server that comes with it.
    ///
    /// # Errors
    ///
    /// pebble is not installed, or does not start.
    pub fn start(host: &Host) -> Result<Self> {
        let mut names = host.at_client("pebble-challtestsrv");
        names.args(["-defaultIPv4", &HOST.v4.to_string(), "-defaultIPv6", ""]);
        names.args([
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-dns01",
            ":53",
            "-management",
            ":8055",
        ]);
        let mut names = Process::start("pebble-challtestsrv", names)?;
        names.wait_until("the name server to be told", |_| {
            let entry = format!("{{\"host\": \"{ACME}.\", \"addresses\": [\"{}\"]}}", CLIENT.v4);
            let mut curl = host.at_client("curl");
            command::run(curl.args(["-fsS", "-d", &entry, "http://127.0.0.1:8055/add-a"])).is_ok()
        })?;
        let folder = host.folder().path().join("acme");
        std::fs::create_dir(&folder)?;
        let authority = Authority::new()?;
        let own = authority.sign(ACME)?;
        for (name, content) in
            [("ca.pem", &authority.pem()), ("own.pem", &own.certificate), ("own.key", &own.key)]
        {
            std::fs::write(folder.join(name), content)?;
        }
        let configuration = format!(
            "{{\"pebble\": {{\"listenAddress\": \":14000\", \"managementListenAddress\": \":15000\", \
             \"certificate\": \"{folder}/own.pem\", \"privateKey\": \"{folder}/own.key\", \
             \"httpPort\": 80, \"tlsPort\": 443}}}}",
            folder = folder.display()
        );
        std::fs::write(folder.join("pebble.json"), configuration)?;
        let mut acme = host.at_client("env");
        acme.args(["PEBBLE_VA_NOSLEEP=1", "pebble", "-dnsserver", "127.0.0.1:53", "-config"]);
        acme.arg(folder.join("pebble.json"));
        let mut internet = Self { _names: names, acme: Process::start("pebble", acme)?, folder };
        let root = internet.root();
        internet.acme.wait_until("pebble to tell its root", |_| {
            let mut curl = host.at_client("curl");
            command::run(curl.args(["-fsSk", "-o"]).arg(&root).arg("https://127.0.0.1:15000/roots/0")).is_ok()
        })?;
        Ok(internet)
    }

    /// The file with the root of the certificates that it issues.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    /// The file with the root of its own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What a configuration has in `[acme]` to use it, with `ca` as the agent finds that file.
    #[must_use]
    pub fn directory(&self, ca: &str) -> String {
        format!("directory = \"https://{ACME}:14000/dir\"\nca = \"{ca}\"\nretry = \"1s\"\n")
    }
}
