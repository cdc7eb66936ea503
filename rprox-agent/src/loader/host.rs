//! The host as attachments see it: a network namespace with its interfaces and addresses, and a bpffs.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::{fs, io};

use thiserror::Error;

use super::netlink::{Device, Netlink, NetlinkError};
use super::pins::{DeviceId, Pins};

/// Why the host could not be looked at.
#[derive(Debug, Error)]
pub enum HostError {
    /// The network namespace can't be told.
    #[error("reading /proc/thread-self/ns/net: {0}; is /proc mounted?")]
    Namespace(#[source] io::Error),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Where attachments are made: a network namespace as it is now, and a bpffs.
pub struct Host<'a> {
    /// The connection to the kernel.
    pub netlink: &'a Netlink,
    /// The bpffs.
    pub bpffs: &'a Path,
    /// Every interface.
    pub devices: Vec<Device>,
    /// Every local address.
    pub addresses: BTreeSet<IpAddr>,
    /// The network namespace's inode number.
    pub netns: u64,
}

impl<'a> Host<'a> {
    /// Looks at this thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    pub async fn look(netlink: &'a Netlink, bpffs: &'a Path) -> Result<Self, HostError> {
        let devices = netlink.devices().await?;
        let addresses = netlink.addresses().await?;
        Ok(Self { netlink, bpffs, devices, addresses, netns: current_netns()? })
    }

    /// The interface `name`, if there is one.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// The device that `pins` are of, if it still is in this network namespace, whatever its name is now.
    #[must_use]
    pub fn device_of(&self, pins: &Pins) -> Option<&Device> {
        let noted = pins.noted_device().filter(|noted| noted.netns == self.netns)?;
        self.devices.iter().find(|device| device.index == noted.index)
    }

    /// What identifies `device`, here and now.
    #[must_use]
    pub fn id(&self, device: &Device) -> DeviceId {
        DeviceId { netns: self.netns, index: device.index }
    }
}

/// The inode number of this thread's network namespace.
fn current_netns() -> Result<u64, HostError> {
    Ok(fs::metadata("/proc/thread-self/ns/net").map_err(HostError::Namespace)?.st_ino())
}

/// Whether a process or a name (`ip netns`) keeps the network namespace.
#[must_use]
pub fn namespace_exists(netns: u64) -> bool {
    let of = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.st_ino() == netns);
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries("/proc").any(|process| of(&process.join("ns/net"))) || entries("/run/netns").any(|name| of(&name))
}
