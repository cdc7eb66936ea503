//! A pod of the playground: a network namespace with nginx, which tells who answered and what it saw.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};

use crate::dns::Container;
use crate::netns::{Netns, Unprivileged};
use crate::process::Process;
use crate::programs;

/// Whom the services run as.
const SERVICE: Unprivileged = Unprivileged { id: 64_081 };

/// What a pod is called and where it is.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Its name, which is also its container's in DNS.
    pub name: &'static str,
    /// A second name, shared with the other pods of the same service.
    pub alias: Option<&'static str>,
    /// Its IPv4 address, if it has one.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it has one.
    pub v6: Option<Ipv6Addr>,
}

impl PodSpec {
    /// What DNS is to say of it.
    #[must_use]
    pub fn container(&self) -> Container {
        let aliases = self.alias.iter().map(ToString::to_string).collect();
        Container { ipv4: self.v4, ipv6: self.v6, aliases }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from))
    }
}

/// A web server in a namespace; both gone with this guard.
#[derive(Debug)]
pub struct Server {
    // Before the namespace: dropped in this order.
    process: Process,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    server: Server,
    netns: Netns,
    spec: PodSpec,
}

impl Pod {
    /// Starts a server in `netns`, on port 80. `folder` is made, and its own.
    ///
    /// # Errors
    ///
    /// nginx is missing or does not start.
    pub fn start(spec: PodSpec, netns: Netns, folder: &Path) -> Result<Self> {
        let server = Server::start(spec.name, &netns, &[80], folder)?;
        let pod = Self { server, netns, spec };
        Ok(pod)
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Waits until it answers on each of its addresses, as seen from `from`.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn wait_until_reachable(&mut self, from: &Netns) -> Result<()> {
        for address in self.spec.addresses().collect::<Vec<_>>() {
            let address = SocketAddr::new(address, 80);
            self.server.process.wait_until(&format!("{address} to answer"), |_| from.can_connect(address))?;
        }
        Ok(())
    }

    /// Ends the pod as a crash would, and takes its addresses off the network.
    ///
    /// # Errors
    ///
    /// The server had ended before.
    pub fn crash(mut self) -> Result<()> {
        self.server.process.kill()
    }
}

impl Server {
    /// Starts a server called `name` inside `netns`, on `ports` of every address, and waits until it listens.
    ///
    /// # Errors
    ///
    /// nginx is missing or does not start.
    pub fn start(name: &str, netns: &Netns, ports: &[u16], folder: &Path) -> Result<Self> {
        // As Podman sets it in every container.
        netns.sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
        let nginx = programs::nginx().context("no nginx: run `cargo xtask setup`")?;
        fs::create_dir_all(folder.join("temp"))?;
        for owned in [folder, &folder.join("temp")] {
            std::os::unix::fs::chown(owned, Some(SERVICE.id), Some(SERVICE.id))?;
        }
        fs::write(folder.join("nginx.conf"), configuration(name, ports, Begins::WithRequest))?;
        let mut command = netns.command_as(SERVICE, nginx);
        command.arg("-p").arg(folder).args(["-c", "nginx.conf", "-e", "stderr"]);
        let mut process = Process::start(name, command)?;
        for port in ports {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            process.wait_until(&format!("{address} to answer"), |_| netns.can_connect(address))?;
        }
        Ok(Self { process })
    }
}

/// How connections to a server begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// With a request: the peer is who connected.
    WithRequest,
    /// With a PROXY protocol header, which is believed: the peer is whom it names.
    WithProxyHeader,
}

/// nginx in one unprivileged process that answers every request with what it saw of it.
pub(crate) fn configuration(name: &str, ports: &[u16], begins: Begins) -> String {
    let (header, believed) = match begins {
        Begins::WithRequest => ("", ""),
        Begins::WithProxyHeader => (
            " proxy_protocol",
            "set_real_ip_from 0.0.0.0/0; set_real_ip_from ::/0; real_ip_header proxy_protocol;",
        ),
    };
    let listen = |port| format!("listen 0.0.0.0:{port}{header}; listen [::]:{port} ipv6only=on{header};");
    let listen = ports.iter().map(listen).collect::<Vec<_>>().join(" ");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path temp/{kind}; "))
        .concat();
    let answer = "client=$http_x_forwarded_for\\nproto=$http_x_forwarded_proto\\nhost=$host\\nuri=$request_uri\\n\
                  forwarded=$http_forwarded\\npeer=$remote_addr\\n";
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off; default_type text/plain; keepalive_requests 100000;
    {temporary}
    server {{ {listen} {believed} location / {{ return 200 \"pod={name}\\n{answer}\"; }} }}
}}
"
    )
}
