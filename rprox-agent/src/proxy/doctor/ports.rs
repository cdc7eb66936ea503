//! Whether the agent can listen where it should, and who does instead.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::findings::Finding;
use crate::proxy::config::Listen;

/// Who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    user: u32,
    /// Names of the processes that have the socket, as far as this user may see them.
    processes: Vec<String>,
}

/// What is to be said of each address of `listen`, or of the default ones.
pub(super) fn check_all(listen: Option<&Listen>, me: u32) -> Vec<Finding> {
    let default = || [8080, 8443].map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).to_vec();
    let addresses = listen.map_or_else(default, |listen| [listen.http.as_slice(), &listen.https].concat());
    addresses
        .iter()
        .map(|address| check(*address, &bind(*address), holder(address.port()).as_ref(), me))
        .collect()
}

/// Binds to `address` as the agent does, but takes no connection.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())
}

/// `bound`: what binding gave; `holder`: who listens on the port.
fn check(address: SocketAddr, bound: &io::Result<()>, holder: Option<&Holder>, me: u32) -> Finding {
    let check = format!("port {}", address.port());
    let Err(error) = bound else { return Finding::fine(check, format!("{address} is free")) };
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => taken(check, address, holder, me),
        Some(Errno::PERM) => Finding::fault(
            check,
            format!(
                "{address} is refused to user {me}: the port guard of rprox-loader keeps it for its owner"
            ),
            "run the agent as the loader's --owner (`sudo rprox-loader status` tells which), or name this user there",
        ),
        Some(Errno::ACCESS) => Finding::fault(
            check,
            format!(
                "{address} is refused: only root binds to ports below net.ipv4.ip_unprivileged_port_start"
            ),
            "listen on a higher port, and have rprox-loader redirect to it",
        ),
        Some(Errno::ADDRNOTAVAIL) => {
            let remedy = "give one that it has, or [::] for all";
            Finding::fault(check, format!("{address} is no address of this host"), remedy)
        }
        _ => Finding::fault(check, format!("{address}: {error}"), "give another address"),
    }
}

fn taken(check: String, address: SocketAddr, holder: Option<&Holder>, me: u32) -> Finding {
    let remedy = format!(
        "end that process, or listen elsewhere; `sudo ss -ltnp 'sport = :{}'` names it",
        address.port()
    );
    let Some(Holder { user, processes }) = holder else {
        return Finding::fault(check, format!("{address} is taken by who can't be told"), remedy);
    };
    let names = processes.join(", ");
    let is_meant = |name: &String| name == "rprox-agent" || name.starts_with("systemd");
    match (*user == me, processes.is_empty()) {
        (true, false) if processes.iter().any(is_meant) => {
            Finding::fine(check, format!("{address} is held by {names}, as it should be"))
        }
        (_, false) => Finding::fault(check, format!("{address} is taken by {names} of user {user}"), remedy),
        (_, true) if *user == 0 => Finding::warning(
            check,
            format!("{address} is taken by a process of root's"),
            format!("if that isn't systemd, by the agent's own socket unit, {remedy}"),
        ),
        (_, true) => Finding::fault(check, format!("{address} is taken by a process of user {user}"), remedy),
    }
}

/// Who listens on `port` in this network namespace.
fn holder(port: u16) -> Option<Holder> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let (user, inode) = tables.iter().find_map(|table| listener(table, port))?;
    Some(Holder { user, processes: processes_with(inode) })
}

/// The user and the inode of the socket that listens on `port` in a table of `proc_pid_net(5)`.
fn listener(table: &str, port: u16) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, user, _, inode, ..] = fields[..] else { return None };
        let (_, local) = local.rsplit_once(':')?;
        let is_it = state == LISTEN && u16::from_str_radix(local, 16) == Ok(port);
        is_it.then_some(())?;
        Some((user.parse().ok()?, inode.parse().ok()?))
    })
}

/// The names of the processes that have the socket `inode`, of those that may be looked into.
fn processes_with(inode: u64) -> Vec<String> {
    let socket = format!("socket:[{inode}]");
    let mut names = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let descriptors = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if targets.any(|target| target.as_os_str() == socket.as_str()) {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};

    #[test]
    fn a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = holder(address.port()).unwrap();
        assert_eq!(holder.user, rustix::process::geteuid().as_raw());
        assert!(!holder.processes.is_empty());
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_kernel_s_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000        0 4710 1\n   \
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4711 1\n";
        assert_eq!(listener(table, 8080), Some((1001, 4711)));
        assert_eq!(listener(table, 8443), None);
        assert_eq!(listener("\nrubbish\n", 8443), None);
    }

    #[test]
    fn what_keeps_from_listening_is_told_apart() {
        let address: SocketAddr = "[::]:8080".parse().unwrap();
        let refused = |errno: Errno| check(address, &Err(errno.into()), None, 1000);
        assert_eq!(check(address, &Ok(()), None, 1000).severity, Fine);
        assert!(refused(Errno::PERM).found.contains("port guard"));
        assert!(refused(Errno::ACCESS).found.contains("unprivileged_port_start"));
        assert!(refused(Errno::ADDRNOTAVAIL).found.contains("no address of this host"));
        let taken = |user, processes: &[&str]| {
            let processes = processes.iter().map(|name| (*name).to_owned()).collect();
            check(address, &Err(Errno::ADDRINUSE.into()), Some(&Holder { user, processes }), 1000)
        };
        assert_eq!(taken(1000, &["systemd", "conmon"]).severity, Fine);
        assert_eq!(taken(1000, &["nginx"]).severity, Fault);
        assert!(taken(1000, &["nginx"]).found.contains("nginx of user 1000"));
        assert_eq!(taken(0, &[]).severity, Warning);
        assert_eq!(taken(33, &[]).severity, Fault);
    }
}
