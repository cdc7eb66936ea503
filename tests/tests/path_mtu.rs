//! Paths with a bottleneck: what routers say of packets that are too big reaches the socket that sent them, and what the host
//! says of a port that nobody listens on reaches the client that asked for it.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rprox_tests::command;
use rprox_tests::netns::Netns;
use rprox_tests::programs::Programs;
use rprox_tests::run_dir::RunDir;
use rprox_tests::wait;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

/// What the link between the routers takes; each end's own link takes 1500.
const BOTTLENECK: u16 = 1_300;
/// More than the bottleneck takes, and less than a link of 1500.
const BIG_DATAGRAM: usize = 1_400;
const BULK: usize = 8 << 20;
/// Longer than any transfer takes here; one that nobody tells of the bottleneck never ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// ```text
///  client ──1500── near ──1300── far ──1500── eth0  host
///  .10            .1   .1       .2  .1        .10
/// ```
struct Path {
    client: Netns,
    _near: Netns,
    _far: Netns,
    host: Netns,
    /// Dropped last: the bpffs in it keeps the redirect.
    _folder: RunDir,
}

/// The networks along the path, each by the digit that tells its addresses from the others'.
const CLIENT_NET: u8 = 1;
const MIDDLE_NET: u8 = 2;
const HOST_NET: u8 = 3;

fn v4(net: u8, host: u8) -> String {
    format!("10.77.{net}.{host}")
}

fn v6(net: u8, host: u8) -> String {
    format!("fd77:{net}::{host}")
}

impl Path {
    /// The host's addresses.
    fn host_addresses() -> [IpAddr; 2] {
        [v4(HOST_NET, 10).parse().unwrap(), v6(HOST_NET, 10).parse().unwrap()]
    }

    /// Links everything, and attaches the loader to the host's interface.
    fn new() -> Self {
        let [client, near, far, host] =
            ["mtu-client", "near", "far", "mtu-host"].map(|role| Netns::new(role).unwrap());
        link(&client, &near, CLIENT_NET, [10, 1], 1_500);
        link(&near, &far, MIDDLE_NET, [1, 2], BOTTLENECK);
        link(&host, &far, HOST_NET, [10, 1], 1_500);
        for router in [&near, &far] {
            router.sysctl("net/ipv4/ip_forward", "1").unwrap();
            router.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
        }
        default_route(&client, CLIENT_NET, 1);
        default_route(&near, MIDDLE_NET, 2);
        default_route(&far, MIDDLE_NET, 1);
        default_route(&host, HOST_NET, 1);
        for end in [&client, &host] {
            // Nothing but what routers say may find the bottleneck.
            end.sysctl("net/ipv4/tcp_mtu_probing", "0").unwrap();
        }
        let folder = RunDir::new().unwrap();
        let mut loader = host.command(Programs::find().unwrap().loader);
        command::run(
            loader
                .args(["attach", "-i", &device(HOST_NET), "--mode", "rewrite", "--owner", "any", "--bpffs"])
                .arg(folder.bpffs()),
        )
        .unwrap();
        Self { client, _near: near, _far: far, host, _folder: folder }
    }

    /// Has both ends leave the cutting of large segments to the device, or cut them themselves.
    fn set_offload(&self, on: bool) {
        let word = if on { "on" } else { "off" };
        for (end, net) in [(&self.client, CLIENT_NET), (&self.host, HOST_NET)] {
            let mut ethtool = end.command("ethtool");
            ethtool.args(["-K", &device(net), "tso", word, "gso", word, "gro", word]);
            command::run(&mut ethtool).unwrap();
        }
    }

    /// Has both ends forget what they have learned of the path.
    fn forget(&self) {
        for end in [&self.client, &self.host] {
            end.ip("route flush cache").unwrap();
            end.ip("-6 route flush cache").unwrap();
        }
    }

    /// What the host knows of the path's MTU to the client: `Some` once a router has told.
    fn learned_by_host(&self, family: IpAddr) -> Option<u16> {
        let to = if family.is_ipv4() { v4(CLIENT_NET, 10) } else { v6(CLIENT_NET, 10) };
        let route = self.host.ip(&format!("route get {to}")).unwrap();
        route.split_once(" mtu ")?.1.split_whitespace().next()?.parse().ok()
    }
}

fn device(net: u8) -> String {
    format!("net{net}")
}

fn link(one: &Netns, other: &Netns, net: u8, ends: [u8; 2], mtu: u16) {
    let device = device(net);
    one.ip(&format!(
        "link add {device} mtu {mtu} type veth peer name {device} mtu {mtu} netns {}",
        other.name()
    ))
    .unwrap();
    for (netns, end) in [one, other].into_iter().zip(ends) {
        netns.ip(&format!("address add {}/24 dev {device}", v4(net, end))).unwrap();
        netns.ip(&format!("address add {}/64 dev {device} nodad", v6(net, end))).unwrap();
        netns.ip(&format!("link set {device} up")).unwrap();
    }
}

fn default_route(netns: &Netns, net: u8, router: u8) {
    netns.ip(&format!("route add default via {}", v4(net, router))).unwrap();
    netns.ip(&format!("route add default via {}", v6(net, router))).unwrap();
}

/// Takes one connection on 8080, reads all that comes, and sends as much back.
fn serve_once(host: &Netns) -> JoinHandle<std::io::Result<usize>> {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080))).unwrap().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let uploaded = stream.read_to_end(&mut Vec::new())?;
        stream.write_all(&vec![7; uploaded])?;
        Ok(uploaded)
    })
}

/// Uploads and then downloads over one connection to port 80.
fn transfer(client: &Netns, to: IpAddr) -> std::io::Result<usize> {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, 80), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![7; BULK])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())
    };
    client.enter(exchange).unwrap()
}

#[test]
fn large_transfers_pass_a_bottleneck_both_ways() {
    let path = Path::new();
    for offload in [true, false] {
        path.set_offload(offload);
        for to in Path::host_addresses() {
            path.forget();
            assert_eq!(path.learned_by_host(to), None);
            let server = serve_once(&path.host);
            let downloaded = transfer(&path.client, to);
            let uploaded = server.join().unwrap();
            let case = format!("{to}, offload {offload}");
            assert_eq!(uploaded.unwrap_or_else(|error| panic!("the service of {case}: {error}")), BULK);
            assert_eq!(downloaded.unwrap_or_else(|error| panic!("download from {case}: {error}")), BULK);
            assert_eq!(path.learned_by_host(to), Some(BOTTLENECK), "{case}");
        }
    }
}

/// Sends what comes back where it came from, for as long as the test runs.
fn echo(host: &Netns) -> UdpSocket {
    let socket = bind(host, Ipv6Addr::UNSPECIFIED.into());
    let service = socket.try_clone().unwrap();
    thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((len, peer)) = service.recv_from(&mut datagram) {
            // Too big for what the path is known to take is no error here: it goes in fragments.
            if len == 0 || service.send_to(&datagram[..len], peer).is_err() {
                break;
            }
        }
    });
    socket
}

/// A socket for 8443, once the service before it has let the port go.
fn bind(host: &Netns, any: IpAddr) -> UdpSocket {
    wait::until(wait::READY, "8443 to be free", || host.enter(|| UdpSocket::bind((any, 8443)).ok()).unwrap())
        .unwrap()
}

/// A service that has datagrams sent whole or not at all, and the address that it takes them at.
fn whole_or_not_at_all(host: &Netns, family: IpAddr) -> UdpSocket {
    let any: IpAddr = if family.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = bind(host, any);
    if family.is_ipv4() {
        sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).unwrap();
    } else {
        sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO).unwrap();
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn a_service_that_sends_datagrams_whole_is_told_that_they_are_too_big() {
    let path = Path::new();
    for to in Path::host_addresses() {
        let service = whole_or_not_at_all(&path.host, to);
        let client = client_socket(&path, to);
        client.send(b"a big one, please").unwrap();
        let (_, peer) = service.recv_from(&mut [0; 64]).unwrap();
        let refused = || service.send_to(&[7; BIG_DATAGRAM], peer).err();
        let error = wait::until(PATIENCE, "a big datagram to be refused", refused)
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE), "{to}: {error}");
        service.connect(peer).unwrap();
        let told = if to.is_ipv4() { sockopt::ip_mtu(&service) } else { sockopt::ipv6_mtu(&service) };
        assert_eq!(told.unwrap(), u32::from(BOTTLENECK), "{to}");
        // One that fits comes through.
        service.send(&[7; 1_200]).unwrap();
        assert_eq!(client.recv(&mut [0; 2_000]).unwrap(), 1_200, "{to}");
    }
}

/// A socket of the client's whose peer is port 443 of the host.
fn client_socket(path: &Path, to: IpAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = path.client.enter(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    path.client.enter(|| socket.connect((to, 443))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

#[test]
fn datagrams_too_big_for_a_bottleneck_come_through_once_its_router_has_told() {
    let path = Path::new();
    let _service = echo(&path.host);
    for to in Path::host_addresses() {
        assert_eq!(path.learned_by_host(to), None);
        let client = client_socket(&path, to);
        // Unless told otherwise the kernel forbids routers to cut datagrams, and cuts them itself once it knows the path: the
        // first ones each way are lost to a router that then tells their sender.
        let mut answer = vec![0; 65_536];
        let len = wait::until(PATIENCE, "a big datagram to come back", || {
            client.send(&[7; BIG_DATAGRAM]).ok()?;
            client.recv(&mut answer).ok()
        });
        assert_eq!(len.unwrap_or_else(|error| panic!("{to}: {error}")), BIG_DATAGRAM, "{to}");
        assert_eq!(path.learned_by_host(to), Some(BOTTLENECK), "{to}");
    }
}

#[test]
fn a_client_is_told_that_nobody_listens_on_the_port_that_it_asked_for() {
    let path = Path::new();
    for to in Path::host_addresses() {
        let client = client_socket(&path, to);
        let refused = wait::until(PATIENCE, "port 443 to be refused", || {
            // An answer to the datagram before it may come first.
            let sent = client.send(b"anybody?");
            let error = sent.and_then(|_| client.recv(&mut [0; 64])).expect_err("nobody answers");
            (error.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
        refused.unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}
