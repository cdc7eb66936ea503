//! Finds the processes that listen on a port of this network namespace.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

/// Who listens on `ports`: TCP listeners, and UDP sockets that are bound and not connected.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn find(ports: &BTreeSet<Port>) -> ProcResult<BTreeSet<Listener>> {
    let me = Process::myself()?;
    // A kernel without IPv6 has no such file.
    let optional = |result: ProcResult<_>| match result {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        result => result,
    };
    let tcp = [me.tcp()?, optional(me.tcp6())?].concat();
    let udp = [
        me.udp()?,
        match me.udp6() {
            Err(ProcError::NotFound(_)) => Vec::new(),
            result => result?,
        },
    ]
    .concat();
    let tcp = tcp
        .into_iter()
        .filter(|socket| socket.state == TcpState::Listen)
        .map(|socket| (socket.inode, (Protocol::Tcp, socket.local_address.port())));
    let udp = udp
        .into_iter()
        .filter(|socket| socket.state == UdpState::Close)
        .map(|socket| (socket.inode, (Protocol::Udp, socket.local_address.port())));
    let sockets: BTreeMap<u64, Port> = tcp.chain(udp).filter(|(_, port)| ports.contains(port)).collect();
    if sockets.is_empty() {
        return Ok(BTreeSet::new());
    }

    let mut listeners = BTreeSet::new();
    let mut known = BTreeSet::new();
    // Processes come and go, and some can't be looked into: those are passed over.
    for process in all_processes()?.flatten() {
        for descriptor in process.fd().into_iter().flatten().flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            let Some(&port) = sockets.get(&inode) else { continue };
            let name = process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm);
            known.insert(inode);
            listeners.insert(Listener { port, process: Some((name, process.pid())) });
        }
    }
    let unknown = sockets.iter().filter(|(inode, _)| !known.contains(*inode));
    listeners.extend(unknown.map(|(_, &port)| Listener { port, process: None }));
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
