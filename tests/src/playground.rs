//! The playground: the article's setting, with the real programs and real peers, in namespaces of its own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::certificates::Authority;
use crate::client::Request;
use crate::command;
use crate::dns::Dns;
use crate::load::Load;
use crate::netns::{self, Unprivileged};
use crate::pod::{Pod, PodSpec, Server};
use crate::process::Process;
use crate::programs::Programs;
use crate::run_dir::{self, RunDir};
use crate::topology::{ELSEWHERE, GATEWAY, HOST, INTERFACE, Topology};

/// Whom the agent runs as: nobody that the system knows.
pub const AGENT: Unprivileged = Unprivileged { id: 64_080 };

/// A host name that the agent routes, and the pods that may answer for it.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// The host name that clients ask for.
    pub host: &'static str,
    /// The name in DNS, within the search domain.
    pub upstream: &'static str,
    /// The pods behind it.
    pub pods: &'static [&'static str],
    /// Whether plain HTTP is redirected to HTTPS.
    pub https_redirect: bool,
}

/// The article's registry, IPv4 only; one with IPv4 and IPv6; one with two endpoints under one name.
pub const SERVICES: [Service; 3] = [
    Service {
        host: "registry.mydomain.com",
        upstream: "container-registry",
        pods: &["container-registry"],
        https_redirect: true,
    },
    Service { host: "grafana.mydomain.com", upstream: "grafana", pods: &["grafana"], https_redirect: false },
    Service {
        host: "wiki.mydomain.com",
        upstream: "wiki",
        pods: &["wiki-1", "wiki-2"],
        https_redirect: false,
    },
];

/// A playground; all of it is gone with this guard. Fields are dropped in order: processes before their namespaces.
pub struct Playground {
    /// The agent, once it was started.
    pub agent: Option<Process>,
    /// The loader, where it runs in the foreground.
    pub loader: Option<Process>,
    /// The name service of the pods' network.
    pub dns: Dns,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The namespaces.
    pub topology: Topology,
    /// The client's trust.
    pub authority: PathBuf,
    programs: Programs,
    links_made: usize,
    run_dir: RunDir,
}

impl Playground {
    /// Makes the namespaces, the pods and the name service; neither loader nor agent runs yet.
    ///
    /// # Errors
    ///
    /// Not root, or something it needs is missing: `cargo xtask setup` says what.
    pub fn new() -> Result<Self> {
        netns::sweep();
        run_dir::sweep();
        let programs = Programs::find()?;
        let run_dir = RunDir::new()?;
        let programs =
            Programs { loader: run_dir.copy_of(&programs.loader)?, agent: run_dir.copy_of(&programs.agent)? };
        let topology = Topology::new()?;
        let dns = Dns::start(&topology.host, &run_dir.path().join("dns"), &GATEWAY.both())?;
        let authority = run_dir.path().join("ca.pem");
        let mut playground = Self {
            agent: None,
            loader: None,
            dns,
            pods: Vec::new(),
            topology,
            authority,
            programs,
            links_made: 0,
            run_dir,
        };
        playground.make_certificates()?;
        for spec in pods() {
            playground.add_pod(spec)?;
        }
        Ok(playground)
    }

    /// A playground in which `rprox-loader run` and the agent run, and requests are answered.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`], or a program did not come up.
    pub fn running() -> Result<Self> {
        let mut playground = Self::new()?;
        playground.start_agent()?;
        playground.start_loader(&[])?;
        Ok(playground)
    }

    /// Starts a pod, waits until it answers, and makes it known to DNS.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<()> {
        let container = spec.container();
        let pod = self.start_pod(spec)?;
        self.dns.set(pod.spec().name, container)?;
        self.pods.push(pod);
        Ok(())
    }

    /// Starts a pod that DNS does not know.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn start_pod(&mut self, spec: PodSpec) -> Result<Pod> {
        self.links_made += 1;
        let netns = self.topology.pod(spec.name, self.links_made, spec.v4, spec.v6)?;
        let folder = self.run_dir.path().join(format!("pod{}", self.links_made));
        let mut pod = Pod::start(spec, netns, &folder)?;
        pod.wait_until_reachable(&self.topology.host)?;
        Ok(pod)
    }

    /// Takes the pod `name` out of the playground's care.
    ///
    /// # Panics
    ///
    /// There is none.
    pub fn take_pod(&mut self, name: &str) -> Pod {
        let place = self.pods.iter().position(|pod| pod.spec().name == name);
        self.pods.remove(place.unwrap_or_else(|| panic!("a pod {name}")))
    }

    /// Starts a web server on `ports` of somebody else, behind the host.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn start_elsewhere(&self, ports: &[u16]) -> Result<Server> {
        Server::start("elsewhere", &self.topology.elsewhere, ports, &self.run_dir.path().join("elsewhere"))
    }

    /// Starts the agent with the configuration for [`SERVICES`], and waits until it listens.
    ///
    /// # Errors
    ///
    /// It does not come up: with what it said.
    pub fn start_agent(&mut self) -> Result<()> {
        let command = self.topology.host.command_as(AGENT, &self.programs.agent);
        self.start_agent_by(command)
    }

    /// The same with listeners that were opened for it beforehand, as by a systemd socket unit.
    ///
    /// # Errors
    ///
    /// As for [`Self::start_agent`].
    pub fn start_agent_by_socket_activation(&mut self) -> Result<()> {
        let mut command = self.topology.host.command_as(AGENT, "systemd-socket-activate");
        command
            .args(["--listen=[::]:8080", "--listen=[::]:8443", "--fdname=http:https"])
            .arg(&self.programs.agent);
        self.start_agent_by(command)
    }

    fn start_agent_by(&mut self, mut command: Command) -> Result<()> {
        let configuration = self.run_dir.file_for("rprox.toml", &self.configuration(), AGENT)?;
        command.args(["run", "--config"]).arg(configuration);
        let mut agent = Process::start("rprox-agent", command)?;
        for port in [8080, 8443] {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            agent.wait_until(&format!("{address} to listen"), |_| self.topology.host.can_connect(address))?;
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// Runs the loader in the foreground with `flags`, and waits until the client reaches port 80.
    ///
    /// # Errors
    ///
    /// It does not come up: with what it said.
    pub fn start_loader(&mut self, flags: &[&str]) -> Result<()> {
        let mut command = self.loader("run");
        command.args(["--interface", INTERFACE]).args(flags);
        let mut loader = Process::start("rprox-loader", command)?;
        loader.wait_until("port 80 to be redirected", |_| self.is_redirected())?;
        self.loader = Some(loader);
        Ok(())
    }

    /// Whether the client gets through to something on port 80 and 443 of the host.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        let open =
            |port| HOST.both().iter().all(|ip| self.topology.client.can_connect(SocketAddr::new(*ip, port)));
        open(80) && open(443)
    }

    /// `rprox-loader` with a subcommand, on the host and with the run's own bpffs.
    #[must_use]
    pub fn loader(&self, subcommand: &str) -> Command {
        let mut command = self.topology.host.command(&self.programs.loader);
        // As if the agent's user had called it by sudo: that is then the owner.
        command.env("SUDO_UID", AGENT.id.to_string());
        command.args([subcommand, "--bpffs"]).arg(self.run_dir.bpffs());
        command
    }

    /// The `rprox-loader` under test, where every user can run it.
    #[must_use]
    pub fn loader_program(&self) -> &Path {
        &self.programs.loader
    }

    /// The `rprox-agent` under test, where every user can run it.
    #[must_use]
    pub fn agent_program(&self) -> &Path {
        &self.programs.agent
    }

    /// What `rprox-loader status --json` says of the chosen interface; null if nothing is attached there.
    ///
    /// # Errors
    ///
    /// It fails, or says no JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let said = command::run(self.loader("status").arg("--json"))?;
        let mut attachments: Vec<serde_json::Value> = serde_json::from_str(&said)?;
        Ok(attachments.pop().unwrap_or_default())
    }

    /// Everything that is pinned, and the directories that hold it. The kernel's own two files are no pins.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.run_dir.bpffs()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "debug") {
                    continue;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    /// The run's directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.run_dir.path()
    }

    /// A request of the client's for `url`; it finds the services' hosts at the host's IPv4 address.
    #[must_use]
    pub fn get(&self, url: &str) -> Request {
        self.get_at(url, HOST.v4.into())
    }

    /// A request of the client's for `url`; it finds the services' hosts at `address`.
    #[must_use]
    pub fn get_at(&self, url: &str, address: std::net::IpAddr) -> Request {
        let request = Request::get(&self.topology.client, url).trust(&self.authority);
        SERVICES.iter().fold(request, |request, service| request.resolve(service.host, address))
    }

    /// Steady requests for `service` over plain HTTP.
    #[must_use]
    pub fn load(&self, service: &Service) -> Load {
        Load::start(&self.topology.client, SocketAddr::new(HOST.v4.into(), 80), service.host)
    }

    /// The agent's configuration.
    #[must_use]
    pub fn configuration(&self) -> String {
        let mut text = format!(
            "workers = 2\ndrain_timeout = \"10s\"\n\n\
             [listen]\nhttp = \"[::]:8080\"\nhttps = \"[::]:8443\"\n\n\
             [dns]\nservers = [\"{}:53\"]\nsearch = \"dns.podman\"\n",
            GATEWAY.v4
        );
        for Service { host, upstream, pods, https_redirect } in SERVICES {
            let folder = self.run_dir.path().display();
            let _ = write!(
                text,
                "\n[[route]]\nhost = \"{host}\"\nupstream = \"{upstream}:80\"\nhttps_redirect = {https_redirect}\n\
                 cert = \"{folder}/{host}.pem\"\nkey = \"{folder}/{host}.key\"\n"
            );
            // So that each of them is certain to answer a few requests: equally busy endpoints are chosen by chance.
            if pods.len() > 1 {
                text.push_str("balance = \"round-robin\"\n");
            }
        }
        text
    }

    /// Has the loader take its programs off, if it put any on.
    ///
    /// # Errors
    ///
    /// It can't.
    pub fn detach(&self) -> Result<()> {
        command::run(self.loader("detach").args(["--interface", INTERFACE])).map(drop)
    }

    fn make_certificates(&self) -> Result<()> {
        let authority = Authority::new()?;
        std::fs::write(&self.authority, authority.pem())?;
        for service in SERVICES {
            let made = authority.sign(service.host)?;
            self.run_dir.file_for(&format!("{}.pem", service.host), &made.certificate, AGENT)?;
            self.run_dir.file_for(&format!("{}.key", service.host), &made.key, AGENT)?;
        }
        Ok(())
    }
}

fn pods() -> [PodSpec; 4] {
    let v4 = |host| Some(Ipv4Addr::new(10, 89, 0, host));
    let v6 = Some(Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, 3));
    [
        PodSpec { name: "container-registry", alias: None, v4: v4(2), v6: None },
        PodSpec { name: "grafana", alias: None, v4: v4(3), v6 },
        PodSpec { name: "wiki-1", alias: Some("wiki"), v4: v4(4), v6: None },
        PodSpec { name: "wiki-2", alias: Some("wiki"), v4: v4(5), v6: None },
    ]
}

/// A URL on somebody else's server behind the host.
#[must_use]
pub fn elsewhere(port: u16) -> [String; 2] {
    [format!("http://{}:{port}/", ELSEWHERE.v4), format!("http://[{}]:{port}/", ELSEWHERE.v6)]
}
