//! The article's site on a host with rootless Podman: a network, the services' pods, and in front of them the proxy in its
//! container, with sockets that the user's systemd holds, behind the loader's redirect.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Host, ID, USER, image};
use crate::certificates::Authority;
use crate::load::{Closed, Load};
use crate::pod::{self, Begins};
use crate::process::Process;
use crate::programs;
use crate::topology::{BRIDGE, HOST, INTERFACE};
use crate::{client, command, wait};

/// The pods' network, as the article calls it.
pub const NETWORK: &str = "pod_network";

/// The units that a user copies, from `deploy`.
const UNITS: [&str; 3] =
    ["quadlet/rprox-http.socket", "quadlet/rprox-https.socket", "systemd/user/rprox.service"];

/// The hosts that have a certificate: one for each service, and one that any pod could have.
const HOSTS: [&str; 7] = [
    "registry.mydomain.test",
    "grafana.mydomain.test",
    "wiki.mydomain.test",
    "audit.mydomain.test",
    "echo.mydomain.test",
    "greeter.mydomain.test",
    "late.pods.mydomain.test",
];

/// The site; gone with this guard.
#[derive(Debug)]
pub struct Site {
    /// The loader, in the foreground.
    pub loader: Process,
    /// The host and its client.
    pub host: Host,
}

impl Site {
    /// Starts it: two pods `wiki-1` and `wiki-2` that are one service, `grafana`, the proxy and the loader. The other hosts have
    /// routes and no pod yet.
    ///
    /// # Errors
    ///
    /// Something does not come up.
    pub fn start() -> Result<Self> {
        let host = Host::boot()?;
        image::of_agent(&host)?;
        let nginx = programs::nginx().context("no nginx: run `cargo xtask setup`")?;
        image::of_program(&host, "localhost/nginx", &nginx, image::Contents::default())?;
        host.podman(&format!("network create {NETWORK}"))?;
        for (name, alias) in [("grafana", None), ("wiki-1", Some("wiki")), ("wiki-2", Some("wiki"))] {
            make_pod(&host, name, alias, Begins::WithRequest)?;
        }
        keep_address_of_bridge(&host)?;
        // For clients that ask the system: it is the host's file, and the client reads it too.
        let entry = format!("echo {} {} >> /etc/hosts", HOST.v4, HOSTS.join(" "));
        command::run(host.root("sh").args(["-c", &entry]))?;
        make_certificates(&host)?;
        host.write(".config/rprox/rprox.toml", configuration())?;
        for unit in UNITS.map(Path::new) {
            let text = fs::read(programs::workspace().join("deploy").join(unit))?;
            let name = unit.file_name().context("a unit has a name")?.to_string_lossy();
            host.write(&format!(".config/systemd/user/{name}"), text)?;
        }
        host.systemctl("daemon-reload")?;
        host.systemctl("start rprox-http.socket rprox-https.socket")?;
        let loader = start_loader(&host)?;
        let site = Self { loader, host };
        site.wait_for_answer_of("https://grafana.mydomain.test/", "grafana")?;
        Ok(site)
    }

    /// Makes a pod of this name with nginx, which answers with what it sees, on port 80; of several with one alias, each is an
    /// endpoint of it.
    ///
    /// # Errors
    ///
    /// Podman refused.
    pub fn make_pod(&self, name: &str, alias: Option<&str>) -> Result<()> {
        make_pod(&self.host, name, alias, Begins::WithRequest)
    }

    /// Makes the pod `audit` with nginx, whose connections begin with a PROXY protocol header: who is there is the peer for it.
    ///
    /// # Errors
    ///
    /// Podman refused.
    pub fn make_audit(&self) -> Result<()> {
        make_pod(&self.host, "audit", None, Begins::WithProxyHeader)
    }

    /// Makes the pod `container-registry` with Docker's registry on port 5000.
    ///
    /// # Errors
    ///
    /// It is not installed, or Podman refused.
    pub fn make_registry(&self) -> Result<()> {
        image::of_registry(&self.host, "localhost/registry")?;
        self.host.podman(&format!("pod create --name container-registry --network {NETWORK}"))?;
        self.host.podman(
            "run --detach --pod container-registry --name registry --volume registry:/var/lib/registry \
             localhost/registry",
        )?;
        let ready =
            || self.get("https://registry.mydomain.test/v2/").send().ok().filter(|a| a.status() == Some(200));
        wait::until(wait::READY, "the registry to answer", ready).map(drop).with_context(|| self.log())
    }

    /// Makes a pod of this name in which this machine's Python runs `script`.
    ///
    /// # Errors
    ///
    /// Podman refused.
    pub fn make_python_pod(&self, name: &str, script: &str) -> Result<()> {
        let Self { host, .. } = self;
        image::of_nothing(host, "localhost/nothing")?;
        host.write(&format!("{name}/service.py"), script)?;
        host.podman(&format!("pod create --name {name} --network {NETWORK}"))?;
        host.podman(&format!(
            "run --detach --pod {name} --name {name}-python --volume /usr:/usr:ro --volume /home/{USER}/{name}:/srv:ro \
             localhost/nothing /usr/bin/python3 /srv/service.py"
        ))?;
        Ok(())
    }

    /// Has the proxy's container follow the user's Podman, as docs/labels.md says, for the hosts below `labels.mydomain.test`.
    ///
    /// # Errors
    ///
    /// Podman's API or the proxy does not start.
    pub fn follow_labels(&self) -> Result<()> {
        let drop_in = fs::read(programs::workspace().join("deploy/systemd/user/labels.conf"))?;
        self.host.write(".config/systemd/user/rprox.service.d/labels.conf", drop_in)?;
        let podman = format!(
            "\n[podman]\nsocket = \"unix:/run/user/{ID}/podman/podman.sock\"\nnetworks = [\"{NETWORK}\"]\n\
             hosts = [\"*.labels.mydomain.test\"]\n"
        );
        self.host.write(".config/rprox/rprox.toml", configuration() + &podman)?;
        self.host.systemctl("start podman.socket")?;
        self.host.systemctl("daemon-reload")?;
        self.host.systemctl("restart rprox.service").map(drop)
    }

    /// Kills the network's aardvark-dns as a crash would.
    ///
    /// # Errors
    ///
    /// None runs.
    pub fn kill_name_service(&self) -> Result<()> {
        let script = "kill -KILL $(cat $XDG_RUNTIME_DIR/containers/networks/aardvark-dns/aardvark.pid)";
        command::run(self.host.user("sh").args(["-c", script])).map(drop)
    }

    /// A request of the client's for `url`, which trusts the site's certificates.
    #[must_use]
    pub fn get(&self, url: &str) -> client::Request {
        self.host.get(url).trust(&self.authority())
    }

    /// Steady requests of the client's for `host`, over plain HTTP.
    #[must_use]
    pub fn load(&self, closed: Closed, host: &str) -> Load {
        Load::start_with(closed, &self.host.client, SocketAddr::new(HOST.v4.into(), 80), host)
    }

    /// The certificate that a client is to trust.
    #[must_use]
    pub fn authority(&self) -> std::path::PathBuf {
        self.host.folder().path().join("ca.pem")
    }

    /// What the agent has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        let logs = command::finish(self.host.user("podman").args(["logs", "rprox"]));
        logs.map(|logs| logs.stdout + &logs.stderr).unwrap_or_default()
    }

    /// Waits until `url` is answered by this pod.
    ///
    /// # Errors
    ///
    /// It does not come to that.
    pub fn wait_for_answer_of(&self, url: &str, pod: &str) -> Result<()> {
        let answers = || self.get(url).send().ok().filter(|answer| answer.field("pod") == Some(pod));
        let what = format!("{url} to be answered by {pod}");
        wait::until(wait::READY * 2, &what, answers).map(drop).with_context(|| self.log())
    }
}

fn make_pod(host: &Host, name: &str, alias: Option<&str>, begins: Begins) -> Result<()> {
    host.write(&format!("{name}/nginx.conf"), pod::configuration(name, &[80], begins))?;
    host.write(&format!("{name}/temp/.keep"), "")?;
    let alias = alias.map(|alias| format!("--network-alias {alias}")).unwrap_or_default();
    host.podman(&format!("pod create --name {name} --network {NETWORK} {alias}"))?;
    host.podman(&format!(
        "run --detach --pod {name} --name {name}-nginx --volume /home/{USER}/{name}:/srv localhost/nginx \
         -p /srv -c nginx.conf -e stderr"
    ))?;
    Ok(())
}

/// Has the network's bridge keep its address. netavark before 1.13 leaves that to the kernel, which changes it when the pod whose
/// address is the lowest goes; for up to a minute the others then send to the old one what is for the name service.
fn keep_address_of_bridge(host: &Host) -> Result<()> {
    let ip = "unshare --rootless-netns ip";
    let shown = host.podman(&format!("{ip} -brief link show {BRIDGE}"))?;
    let address = shown.split_whitespace().nth(2).with_context(|| format!("no address in {shown:?}"))?;
    host.podman(&format!("{ip} link set {BRIDGE} address {address}")).map(drop)
}

fn make_certificates(host: &Host) -> Result<()> {
    let authority = Authority::new()?;
    fs::write(host.folder().path().join("ca.pem"), authority.pem())?;
    for name in HOSTS {
        let made = authority.sign(name)?;
        host.write(&format!(".config/rprox/certs/{name}.pem"), made.certificate)?;
        host.write(&format!(".config/rprox/certs/{name}.key"), made.key)?;
        let key = host.home().join(format!(".config/rprox/certs/{name}.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn configuration() -> String {
    let folder = "/etc/rprox/certs";
    let certificate =
        |host| format!("[[certificate]]\ncert = \"{folder}/{host}.pem\"\nkey = \"{folder}/{host}.key\"\n\n");
    let certificates = HOSTS.map(certificate).concat();
    format!(
        "[dns]\nsearch = \"dns.podman\"\nmax_ttl = \"1s\"\n\n\
         {certificates}\
         [[route]]\nhost = \"registry.mydomain.test\"\nupstream = \"container-registry:5000\"\n\n\
         [[route]]\nhost = \"grafana.mydomain.test\"\nupstream = \"grafana:80\"\n\n\
         [[route]]\nhost = \"audit.mydomain.test\"\nupstream = \"audit:80\"\nproxy_protocol = \"v2\"\n\n\
         [[route]]\nhost = \"echo.mydomain.test\"\nupstream = \"echo:80\"\n\n\
         [[route]]\nhost = \"greeter.mydomain.test\"\nupstream = \"h2c://greeter:50051\"\n\n\
         [[route]]\nhost = \"wiki.mydomain.test\"\nupstream = \"wiki:80\"\nhttps_redirect = false\n\n\
         [[route]]\nhost = \"*.pods.mydomain.test\"\nupstream = \"{{1}}:80\"\nallow = [\"late\"]\nhttps_redirect = false\n"
    )
}

fn start_loader(host: &Host) -> Result<Process> {
    let mut command = host.root("rprox-loader");
    // By `lo` comes what the pods send to the site's own names: slirp4netns connects from within the host.
    command.args(["run", "--interface", INTERFACE, "--interface", "lo", "--owner", USER]);
    let mut loader = Process::start("rprox-loader", command)?;
    let open = |port| host.client.can_connect(SocketAddr::new(HOST.v4.into(), port));
    loader.wait_until("ports 80 and 443 to be redirected", |_| open(80) && open(443))?;
    Ok(loader)
}
