//! What the loader asks the kernel over rtnetlink: interfaces, addresses, the default route.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::pin::pin;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use thiserror::Error;
use tokio::task::JoinHandle;

/// What went wrong over netlink.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// A request failed.
    #[error("asking the kernel for its {what}: {source}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A request got no answer, or an empty one.
    #[error(
        "asking the kernel for its {0}: it named none, where there is a loopback one at least; is `lo` up?"
    )]
    NoAnswer(&'static str),
    /// The interface does not exist.
    #[error("there is no interface {name}; there are: {}", existing.join(", "))]
    NoInterface {
        /// The name.
        name: String,
        /// The interfaces that do.
        existing: Vec<String>,
    },
    /// No default route to take the interface from.
    #[error("no interface was named, and there is no default route to take one from; name it with -i. There are: {}", .0.join(", "))]
    NoDefaultRoute(Vec<String>),
    /// The interface has a link layer that the programs can't read.
    #[error(
        "interface {name} has a link layer ({kind:?}) that rprox can't read packets of; it works on Ethernet-like interfaces, \
         loopback, tun, wireguard and ppp"
    )]
    LinkLayer {
        /// The interface.
        name: String,
        /// Its link layer.
        kind: LinkLayerType,
    },
}

/// A network interface.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The index of the bridge, bond or VRF that it belongs to.
    pub controller: Option<u32>,
    /// The index of the device that it is on top of, as a VLAN or macvlan is.
    pub lower: Option<u32>,
    /// Whether it is up.
    pub is_up: bool,
    kind: LinkLayerType,
}

impl Device {
    /// An Ethernet device that is on top of none and belongs to none.
    #[cfg(test)]
    pub(super) fn ethernet(index: u32, name: &str) -> Self {
        let kind = LinkLayerType::Ether;
        Self { index, name: name.to_owned(), controller: None, lower: None, is_up: true, kind }
    }

    fn from_message(link: LinkMessage) -> Option<Self> {
        let mut device = Self {
            index: link.header.index,
            name: String::new(),
            controller: None,
            lower: None,
            is_up: link.header.flags.contains(LinkFlags::Up),
            kind: link.header.link_layer_type,
        };
        let (mut is_elsewhere, mut is_cut_out) = (false, false);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Controller(index) => device.controller = Some(index),
                LinkAttribute::Link(index) => device.lower = Some(index),
                // In another namespace the index says nothing here.
                LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => is_cut_out = infos.iter().any(is_cut_out_of_its_link),
                _ => {}
            }
        }
        device.lower = device.lower.filter(|_| is_cut_out && !is_elsewhere);
        (!device.name.is_empty()).then_some(device)
    }

    /// Bytes of link-layer header before the network header, in what a program on this interface sees.
    ///
    /// # Errors
    ///
    /// The interface has a header that the programs don't know.
    pub fn link_header_len(&self) -> Result<u32, NetlinkError> {
        match self.kind {
            LinkLayerType::Ether | LinkLayerType::Loopback => Ok(14),
            LinkLayerType::None
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre => Ok(0),
            kind => Err(NetlinkError::LinkLayer { name: self.name.clone(), kind }),
        }
    }
}

/// Whether a device of this kind gets its packets from the one that it links to, as they are. A veth device links to its other
/// end, and a tunnel to what carries its packets inside of others, which no program of the lower one looks into.
fn is_cut_out_of_its_link(info: &LinkInfo) -> bool {
    use InfoKind::{IpVlan, IpVtap, MacVlan, MacVtap, Vlan};
    matches!(info, LinkInfo::Kind(Vlan | MacVlan | MacVtap | IpVlan | IpVtap))
}

/// A connection to the kernel's routing subsystem, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Netlink {
    /// Connects. The connection runs on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// No socket could be had.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// Connects, and also gives a stream with an item whenever interfaces or addresses may have changed.
    ///
    /// # Errors
    ///
    /// No socket could be had.
    pub fn watch() -> Result<(Self, impl Stream<Item = ()> + Unpin + use<>), NetlinkError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        let changes = messages.filter_map(|(message, _)| std::future::ready(changes(&message).then_some(())));
        Ok((Self { handle, driver: tokio::spawn(connection) }, changes))
    }

    /// Every interface.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub async fn devices(&self) -> Result<Vec<Device>, NetlinkError> {
        let failed = |source| NetlinkError::Request { what: "interfaces", source };
        let mut links = pin!(self.handle.link().get().execute());
        let mut devices = Vec::new();
        while let Some(link) = links.try_next().await.map_err(failed)? {
            devices.extend(Device::from_message(link));
        }
        Ok(devices)
    }

    /// The interface `name`.
    ///
    /// # Errors
    ///
    /// There is none of that name, or the kernel refused.
    pub async fn device(&self, name: &str) -> Result<Device, NetlinkError> {
        let mut devices = self.devices().await?;
        match devices.iter().position(|device| device.name == name) {
            Some(place) => Ok(devices.swap_remove(place)),
            None => Err(NetlinkError::NoInterface { name: name.to_owned(), existing: names(devices) }),
        }
    }

    /// Every address of this host, in this network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub async fn addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let failed = |source| NetlinkError::Request { what: "addresses", source };
        let mut messages = pin!(self.handle.address().get().execute());
        let mut addresses = BTreeSet::new();
        while let Some(message) = messages.try_next().await.map_err(failed)? {
            // On a point-to-point interface ADDRESS is the peer's, and LOCAL is ours; IPv6 mostly has ADDRESS alone.
            let (mut local, mut address) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(*ip),
                    AddressAttribute::Address(ip) => address = Some(*ip),
                    _ => {}
                }
            }
            addresses.extend(local.or(address));
        }
        // A request that gets lost ends like one that has been answered. Believed, it would put the redirect out of force.
        if addresses.is_empty() {
            return Err(NetlinkError::NoAnswer("addresses"));
        }
        Ok(addresses)
    }

    /// The interface of the default route: IPv4's, or else IPv6's; the one of the lowest metric.
    ///
    /// # Errors
    ///
    /// There is no default route, or the kernel refused.
    pub async fn default_interface(&self) -> Result<String, NetlinkError> {
        let requests = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        let devices = self.devices().await?;
        for request in requests {
            let failed = |source| NetlinkError::Request { what: "routes", source };
            let routes: Vec<RouteMessage> =
                self.handle.route().get(request).execute().try_collect().await.map_err(failed)?;
            let default = routes.iter().filter_map(default_route).min_by_key(|(metric, _)| *metric);
            if let Some(device) =
                default.and_then(|(_, index)| devices.iter().find(|device| device.index == index))
            {
                return Ok(device.name.clone());
            }
        }
        Err(NetlinkError::NoDefaultRoute(names(devices)))
    }

    /// The handle, for requests of other modules.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn names(devices: Vec<Device>) -> Vec<String> {
    devices.into_iter().map(|device| device.name).collect()
}

/// The metric and interface index of `route` if it is a default route.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    let header = &route.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN;
    if header.destination_prefix_length != 0 || !main || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut metric, mut index) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(interface) => index = Some(*interface),
            RouteAttribute::MultiPath(hops) => index = hops.first().map(|hop| hop.interface_index).or(index),
            _ => {}
        }
    }
    Some((metric, index?))
}

/// Whether `message` says that interfaces or addresses may have changed; an overrun says that we can't know.
fn changes(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(message) => matches!(
            message,
            RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
        ),
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_lies_on_its_link_and_a_tunnel_or_a_peer_does_not() {
        let lower = |kind: InfoKind, elsewhere: bool| {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName("upper".to_owned()),
                LinkAttribute::Link(2),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            ];
            link.attributes.extend(elsewhere.then_some(LinkAttribute::LinkNetNsId(0)));
            Device::from_message(link).unwrap().lower
        };
        for kind in [InfoKind::Vlan, InfoKind::MacVlan, InfoKind::MacVtap, InfoKind::IpVlan, InfoKind::IpVtap]
        {
            assert_eq!(lower(kind.clone(), false), Some(2), "{kind:?}");
            assert_eq!(lower(kind.clone(), true), None, "{kind:?}");
        }
        for kind in [InfoKind::Veth, InfoKind::Vxlan, InfoKind::GreTun, InfoKind::Wireguard] {
            assert_eq!(lower(kind.clone(), false), None, "{kind:?}");
        }
    }

    #[test]
    fn only_unicast_routes_to_everywhere_in_the_main_table_count() {
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(3), RouteAttribute::Priority(100)];
        assert_eq!(default_route(&route), Some((100, 3)));
        route.header.kind = RouteType::BlackHole;
        assert_eq!(default_route(&route), None);
        route.header.kind = RouteType::Unicast;
        route.header.destination_prefix_length = 8;
        assert_eq!(default_route(&route), None);
    }
}
