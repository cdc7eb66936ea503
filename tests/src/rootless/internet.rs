//! What is on the Internet, which the client's place stands for: a name server that knows the host by every name, and an ACME server.

use anyhow::Result;

use super::Host;
use super::acme::Acme;
use crate::command;
use crate::process::Process;
use crate::topology::{CLIENT, HOST};

/// The ACME server's name.
const ACME: &str = "acme.test";

/// Both servers; ended with this guard.
#[derive(Debug)]
pub struct Internet {
    _names: Process,
    _pebble: Process,
    /// What is to be known of the ACME server.
    pub acme: Acme,
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
        let acme = Acme::new(ACME, &folder);
        for (name, content) in acme.files(&folder)? {
            std::fs::write(folder.join(name), content)?;
        }
        let mut pebble = host.at_client("env");
        pebble.args(["PEBBLE_VA_NOSLEEP=1", "pebble", "-dnsserver", "127.0.0.1:53", "-config"]);
        pebble.arg(folder.join("pebble.json"));
        let mut pebble = Process::start("pebble", pebble)?;
        pebble.wait_until("pebble to tell its root", |_| {
            acme.fetch_root(host.at_client("curl"), "127.0.0.1").is_ok()
        })?;
        Ok(Self { _names: names, _pebble: pebble, acme })
    }
}
