//! An ACME server: pebble, which validates at ports 80 and 443 as Let's Encrypt does. It is out in the Internet, or in a pod.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::site::{NETWORK, Site};
use super::{USER, image};
use crate::certificates::Authority;
use crate::{command, programs, wait};

/// The pod's name.
const POD: &str = "pebble";

/// What is to be known of one.
#[derive(Debug)]
pub struct Acme {
    name: String,
    folder: PathBuf,
}

impl Acme {
    /// Of one called `name`, whose roots are kept in `folder`.
    pub(super) fn new(name: &str, folder: &Path) -> Self {
        Self { name: name.to_owned(), folder: folder.to_owned() }
    }

    /// Makes it in a pod of the site, where the agent knows it by the pod's name. It reaches the site as anybody does: at the
    /// host's address, through the loader's redirect.
    ///
    /// # Errors
    ///
    /// pebble is not installed, or Podman refused.
    pub fn in_pod(site: &Site) -> Result<Self> {
        let host = &site.host;
        let acme = Self::new(&format!("{POD}.dns.podman"), &host.home().join(POD));
        for (name, content) in acme.files(Path::new("/srv"))? {
            host.write(&format!("{POD}/{name}"), content)?;
        }
        let pebble = programs::find("pebble").context("no pebble: run `cargo xtask setup`")?;
        let contents = image::Contents { arguments: &["-config", "/srv/pebble.json"], files: &[] };
        image::of_program(host, "localhost/pebble", &pebble, contents)?;
        host.podman(&format!("pod create --name {POD} --network {NETWORK}"))?;
        host.podman(&format!(
            "run --detach --pod {POD} --name {POD}-server --env PEBBLE_VA_NOSLEEP=1 \
             --volume /home/{USER}/{POD}:/srv:ro localhost/pebble"
        ))?;
        let infra = host.podman(&format!("pod inspect --format {{{{.InfraContainerID}}}} {POD}"))?;
        let format = format!("{{{{.NetworkSettings.Networks.{NETWORK}.IPAddress}}}}");
        let address = host.podman(&format!("inspect --format {format} {infra}"))?;
        let tells = || {
            let mut curl = host.user("podman");
            curl.args(["unshare", "--rootless-netns", "curl"]);
            acme.fetch_root(curl, address.trim()).ok()
        };
        wait::until(wait::READY, "pebble to tell its root", tells)?;
        Ok(acme)
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
        format!("directory = \"https://{}:14000/dir\"\nca = \"{ca}\"\nretry = \"1s\"\n", self.name)
    }

    /// What pebble reads, which finds it all in the folder `inside`.
    pub(super) fn files(&self, inside: &Path) -> Result<[(&'static str, String); 4]> {
        let authority = Authority::new()?;
        let own = authority.sign(&self.name)?;
        let configuration = format!(
            "{{\"pebble\": {{\"listenAddress\": \":14000\", \"managementListenAddress\": \":15000\", \
             \"certificate\": \"{inside}/own.pem\", \"privateKey\": \"{inside}/own.key\", \
             \"httpPort\": 80, \"tlsPort\": 443}}}}",
            inside = inside.display()
        );
        Ok([
            ("ca.pem", authority.pem()),
            ("own.pem", own.certificate),
            ("own.key", own.key),
            ("pebble.json", configuration),
        ])
    }

    /// Has `curl` fetch the root of the certificates that the server at `address` issues.
    pub(super) fn fetch_root(&self, mut curl: Command, address: &str) -> Result<()> {
        let url = format!("https://{address}:15000/roots/0");
        command::run(curl.args(["-fsSk", "-o"]).arg(self.root()).arg(url)).map(drop)
    }
}
