//! The namespaces of the playground and the links between them.
//!
//! ```text
//!  client ───── eth0  host  eth1 ───── elsewhere
//!                      │
//!                   podman1 (bridge; the name service listens on it)
//!                 ┌────┼────┐
//!                pod  pod  pod
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::Netns;

/// The host's chosen interface: what the loader is attached to.
pub const INTERFACE: &str = "eth0";
/// The bridge of the pods' network, named as Podman names it.
pub const BRIDGE: &str = "podman1";

/// An IPv4 and an IPv6 address of one interface.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// IPv4 and then IPv6.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The client.
pub const CLIENT: Addresses = Addresses {
    v4: Ipv4Addr::new(198, 51, 100, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10),
};
/// The host, on the side of the client.
pub const HOST: Addresses =
    Addresses { v4: Ipv4Addr::new(198, 51, 100, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1) };
/// Somebody else, whom the client reaches through the host.
pub const ELSEWHERE: Addresses = Addresses {
    v4: Ipv4Addr::new(203, 0, 113, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10),
};
/// The host, on the side of somebody else.
const HOST_ELSEWHERE: Addresses =
    Addresses { v4: Ipv4Addr::new(203, 0, 113, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1) };
/// The host, on the pods' network.
pub const GATEWAY: Addresses =
    Addresses { v4: Ipv4Addr::new(10, 89, 0, 1), v6: Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, 1) };

/// The namespaces but for the pods'.
#[derive(Debug)]
pub struct Topology {
    /// Where requests come from.
    pub client: Netns,
    /// Where loader, agent and name service run.
    pub host: Netns,
    /// Behind the host: what the client reaches by its forwarding.
    pub elsewhere: Netns,
}

impl Topology {
    /// Makes the namespaces and links them.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel lacks veth or bridge devices.
    pub fn new() -> Result<Self> {
        let topology = Self {
            client: Netns::new("client")?,
            host: Netns::new("host")?,
            elsewhere: Netns::new("elsewhere")?,
        };
        let Self { host, elsewhere, .. } = &topology;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        topology.make_client_link()?;
        link(elsewhere, ELSEWHERE, host, "eth1", HOST_ELSEWHERE)?;
        host.ip(&format!("link add {BRIDGE} type bridge"))?;
        host.ip(&format!("link set {BRIDGE} up"))?;
        assign(host, BRIDGE, Some(GATEWAY.v4), Some(GATEWAY.v6))?;
        Ok(topology)
    }

    /// Deletes the chosen interface and makes it again, as a hot-plugged adapter or a restarted tunnel does.
    ///
    /// # Errors
    ///
    /// A device could not be made.
    pub fn make_client_link_anew(&self) -> Result<()> {
        self.delete_client_link()?;
        self.make_client_link()
    }

    /// Deletes the chosen interface.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn delete_client_link(&self) -> Result<()> {
        self.host.ip(&format!("link delete {INTERFACE}")).map(drop)
    }

    /// Makes the chosen interface.
    ///
    /// # Errors
    ///
    /// It could not be made.
    pub fn make_client_link(&self) -> Result<()> {
        link(&self.client, CLIENT, &self.host, INTERFACE, HOST)
    }

    /// Makes a pod's namespace on the pods' network. `number` makes its link's name on the host.
    ///
    /// # Errors
    ///
    /// A link or an address could not be made.
    pub fn pod(
        &self,
        name: &str,
        number: usize,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    ) -> Result<Netns> {
        let pod = Netns::new(name)?;
        let port = format!("veth{number}");
        self.host.ip(&format!("link add {port} type veth peer name eth0 netns {}", pod.name()))?;
        self.host.ip(&format!("link set {port} master {BRIDGE} up"))?;
        pod.ip("link set eth0 up")?;
        assign(&pod, "eth0", v4, v6)?;
        if v4.is_some() {
            pod.ip(&format!("route add default via {}", GATEWAY.v4))?;
        }
        if v6.is_some() {
            pod.ip(&format!("route add default via {}", GATEWAY.v6))?;
        }
        Ok(pod)
    }
}

/// Links `peer`'s eth0 to `interface` of the host, through which it then reaches everything else.
pub(crate) fn link(
    peer: &Netns,
    at_peer: Addresses,
    host: &Netns,
    interface: &str,
    at_host: Addresses,
) -> Result<()> {
    host.ip(&format!("link add {interface} type veth peer name eth0 netns {}", peer.name()))?;
    host.ip(&format!("link set {interface} up"))?;
    peer.ip("link set eth0 up")?;
    assign(host, interface, Some(at_host.v4), Some(at_host.v6))?;
    assign(peer, "eth0", Some(at_peer.v4), Some(at_peer.v6))?;
    peer.ip(&format!("route add default via {}", at_host.v4))?;
    peer.ip(&format!("route add default via {}", at_host.v6))?;
    Ok(())
}

fn assign(netns: &Netns, interface: &str, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Result<()> {
    if let Some(v4) = v4 {
        netns.ip(&format!("address add {v4}/24 dev {interface}"))?;
    }
    if let Some(v6) = v6 {
        netns.ip(&format!("address add {v6}/64 dev {interface} nodad"))?;
    }
    Ok(())
}
