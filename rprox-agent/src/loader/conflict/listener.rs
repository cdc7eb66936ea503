//! Finds the processes that listen on a port of this network namespace.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use procfs::net::{TcpState, UdpState};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{ProcError, ProcResult};
use rprox_common::Protocol;

use super::Port;

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The port.
    pub port: Port,
    /// Whose socket it is.
    pub user: u32,
    /// The process; `None` if it can't be told, as for a socket in another PID namespace.
    pub process: Option<(String, i32)>,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((name, pid)) => write!(f, "{name} (pid {pid})"),
            None => f.write_str("a process that can't be told"),
        }
    }
}

/// A socket that something can arrive at: a TCP listener, or a UDP socket that is bound and not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// What it is bound to.
    pub address: IpAddr,
    /// Its port.
    pub port: Port,
    /// Whose it is.
    pub user: u32,
    /// Its inode, which the descriptors of its holders name.
    pub inode: u64,
}

/// A descriptor of a socket's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The socket's inode.
    pub inode: u64,
    /// The process's name.
    pub name: String,
    /// The process.
    pub pid: i32,
    /// Its descriptor.
    pub fd: i32,
}

/// The sockets on `ports` of this network namespace.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn sockets(ports: &BTreeSet<Port>) -> ProcResult<Vec<Socket>> {
    let me = Process::myself()?;
    let tcp = [me.tcp()?, optional(me.tcp6())?].concat();
    let udp = [me.udp()?, optional(me.udp6())?].concat();
    let tcp = tcp.into_iter().filter(|socket| socket.state == TcpState::Listen).map(|socket| Socket {
        address: socket.local_address.ip(),
        port: (Protocol::Tcp, socket.local_address.port()),
        user: socket.uid,
        inode: socket.inode,
    });
    let udp = udp.into_iter().filter(|socket| socket.state == UdpState::Close).map(|socket| Socket {
        address: socket.local_address.ip(),
        port: (Protocol::Udp, socket.local_address.port()),
        user: socket.uid,
        inode: socket.inode,
    });
    Ok(tcp.chain(udp).filter(|socket| ports.contains(&socket.port)).collect())
}

/// A kernel without IPv6 has no such file.
fn optional<T>(result: ProcResult<Vec<T>>) -> ProcResult<Vec<T>> {
    match result {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        result => result,
    }
}

/// The descriptors of the sockets with `inodes` in the processes that can be looked into.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn holders(inodes: impl Iterator<Item = u64>) -> ProcResult<Vec<Holder>> {
    let inodes: BTreeSet<u64> = inodes.collect();
    let mut holders = Vec::new();
    if inodes.is_empty() {
        return Ok(holders);
    }
    // Processes come and go, and some can't be looked into: those are passed over.
    for process in all_processes()?.flatten() {
        for descriptor in process.fd().into_iter().flatten().flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            if inodes.contains(&inode) {
                let name = process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm);
                holders.push(Holder { inode, name, pid: process.pid(), fd: descriptor.fd });
            }
        }
    }
    Ok(holders)
}

/// Who listens on `ports`.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn find(ports: &BTreeSet<Port>) -> ProcResult<BTreeSet<Listener>> {
    let sockets = sockets(ports)?;
    let holders = holders(sockets.iter().map(|socket| socket.inode))?;
    let mut listeners = BTreeSet::new();
    for &Socket { inode, port, user, .. } in &sockets {
        let mut known = holders.iter().filter(|holder| holder.inode == inode).peekable();
        if known.peek().is_none() {
            listeners.insert(Listener { port, user, process: None });
        }
        listeners.extend(known.map(|holder| Listener {
            port,
            user,
            process: Some((holder.name.clone(), holder.pid)),
        }));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn finds_this_process() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let tcp_port = (Protocol::Tcp, tcp.local_addr().unwrap().port());
        let udp_port = (Protocol::Udp, udp.local_addr().unwrap().port());
        let found = find(&BTreeSet::from([tcp_port, udp_port])).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        for port in [tcp_port, udp_port] {
            let listener = found.iter().find(|listener| listener.port == port).unwrap();
            assert_eq!(listener.process.as_ref().unwrap().1, pid);
        }
        drop(tcp);
        assert!(find(&BTreeSet::from([tcp_port])).unwrap().is_empty());
    }
}
