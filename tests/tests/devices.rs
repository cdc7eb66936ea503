//! Every kind of device as the chosen interface.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rprox_tests::command;
use rprox_tests::netns::Netns;
use rprox_tests::programs::Programs;
use rprox_tests::run_dir::RunDir;

const DEADLINE: Duration = Duration::from_secs(10);
const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:51::1"];
const CLIENT: [&str; 2] = ["198.51.100.10", "2001:db8:51::10"];

/// A client and a host, linked by a device called `port0` at both ends, and echo servers on the host's TO ports.
struct Pair {
    host: Netns,
    client: Netns,
    run_dir: RunDir,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            host: Netns::new("host").unwrap(),
            client: Netns::new("client").unwrap(),
            run_dir: RunDir::new().unwrap(),
        };
        pair.host
            .ip(&format!("link add port0 type veth peer name port0 netns {}", pair.client.name()))
            .unwrap();
        for netns in [&pair.host, &pair.client] {
            netns.ip("link set port0 up").unwrap();
        }
        pair.host.enter(serve).unwrap();
        pair
    }

    /// Gives addresses to a device of each side.
    fn address(&self, on_host: &str, on_client: &str) {
        for (netns, device, addresses) in [(&self.host, on_host, HOST), (&self.client, on_client, CLIENT)] {
            netns.ip(&format!("link set {device} up")).unwrap();
            netns.ip(&format!("addr add {}/24 dev {device}", addresses[0])).unwrap();
            netns.ip(&format!("addr add {}/64 dev {device} nodad", addresses[1])).unwrap();
        }
    }

    fn loader(&self, subcommand: &str) -> Command {
        let mut command = self.host.command(&Programs::find().unwrap().loader);
        command.args([subcommand, "--bpffs"]).arg(self.run_dir.bpffs());
        command
    }

    fn attach(&self, arguments: &[&str]) {
        command::run(self.loader("attach").args(["--owner", "any"]).args(arguments)).unwrap();
    }

    /// Asserts that nothing answers on FROM until the loader attaches to `interface`, and TO's servers do from then on.
    #[track_caller]
    fn assert_redirects(&self, interface: &str) {
        for host in HOST {
            assert!(!self.client.can_connect(address(host, 80)), "{host} before");
        }
        self.attach(&["--interface", interface]);
        for host in HOST {
            assert_echoes(&self.client, host, 80, 443);
        }
        command::run(&mut self.loader("detach")).unwrap();
        for host in HOST {
            assert!(!self.client.can_connect(address(host, 80)), "{host} after");
        }
    }
}

/// Asserts that the host's servers answer `from` on these ports.
#[track_caller]
fn assert_echoes(from: &Netns, host: &str, tcp: u16, udp: u16) {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address(host, tcp), DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"by tcp").unwrap();
        let mut echo = [0; 6];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"by tcp");

        let socket = UdpSocket::bind(if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        socket.connect(address(host, udp)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send(b"by udp").unwrap();
        let len = socket.recv(&mut echo).unwrap();
        assert_eq!(&echo[..len], b"by udp");
    })
    .unwrap();
}

fn address(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse::<IpAddr>().unwrap(), port)
}

/// Echoes what comes to TCP 8080 and UDP 8443, for as long as this process lives.
fn serve() {
    let tcp = TcpListener::bind("[::]:8080").unwrap();
    let udp = UdpSocket::bind("[::]:8443").unwrap();
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    thread::spawn(move || {
        let mut datagram = [0; 2_048];
        while let Ok((len, peer)) = udp.recv_from(&mut datagram) {
            let _ = udp.send_to(&datagram[..len], peer);
        }
    });
}

#[test]
fn a_bridge() {
    let pair = Pair::new();
    pair.host.ip("link add br0 type bridge forward_delay 0").unwrap();
    pair.host.ip("link set port0 master br0").unwrap();
    pair.address("br0", "port0");
    pair.assert_redirects("br0");
}

#[test]
fn a_macvlan() {
    let pair = Pair::new();
    // Else the lower device answers for the address as well, and gets the packets until the client has heard both.
    pair.host.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    pair.host.ip("link add mv0 link port0 type macvlan mode bridge").unwrap();
    pair.address("mv0", "port0");
    pair.assert_redirects("mv0");
}

#[test]
fn several_interfaces_each_with_its_own_rules() {
    let pair = Pair::new();
    pair.address("port0", "port0");
    let other = Netns::new("other").unwrap();
    pair.host.ip(&format!("link add eth1 type veth peer name eth0 netns {}", other.name())).unwrap();
    pair.host.ip("addr add 203.0.113.1/24 dev eth1").unwrap();
    pair.host.ip("link set eth1 up").unwrap();
    other.ip("addr add 203.0.113.10/24 dev eth0").unwrap();
    other.ip("link set eth0 up").unwrap();

    pair.attach(&["--interface", "port0"]);
    pair.attach(&["--interface", "eth1", "--redirect", "81:8080", "--redirect", "444:8443/udp"]);
    assert_echoes(&pair.client, HOST[0], 80, 443);
    assert!(!pair.client.can_connect(address(HOST[0], 81)));
    assert_echoes(&other, "203.0.113.1", 81, 444);
    assert!(!other.can_connect(address("203.0.113.1", 80)));

    command::run(pair.loader("detach").args(["--interface", "eth1"])).unwrap();
    assert!(!other.can_connect(address("203.0.113.1", 81)));
    assert_echoes(&pair.client, HOST[0], 80, 443);
}

#[test]
fn the_loopback_device_for_local_clients() {
    let pair = Pair::new();
    pair.attach(&["--interface", "lo"]);
    for host in ["127.0.0.1", "::1"] {
        assert_echoes(&pair.host, host, 80, 443);
    }
}

/// Devices of kernel modules. The virtual machine of `cargo xtask test` has them, and runs these.
mod needs_modules {
    use super::*;

    #[test]
    fn a_vlan() {
        let pair = Pair::new();
        for netns in [&pair.host, &pair.client] {
            netns.ip("link add link port0 name port0.5 type vlan id 5").expect("the kernel has 8021q");
        }
        pair.address("port0.5", "port0.5");
        pair.assert_redirects("port0.5");
    }

    #[test]
    fn a_vlan_in_a_vlan() {
        let pair = Pair::new();
        for netns in [&pair.host, &pair.client] {
            netns
                .ip("link add link port0 name outer type vlan proto 802.1ad id 5")
                .expect("the kernel has 8021q");
            netns.ip("link set outer up").unwrap();
            netns.ip("link add link outer name inner type vlan id 6").unwrap();
        }
        pair.address("inner", "inner");
        pair.assert_redirects("inner");
    }

    #[test]
    fn a_bond() {
        let pair = Pair::new();
        for netns in [&pair.host, &pair.client] {
            netns
                .ip("link add bond0 type bond mode active-backup miimon 10")
                .expect("the kernel has bonding");
            netns.ip("link set port0 down").unwrap();
            netns.ip("link set port0 master bond0").unwrap();
            netns.ip("link set port0 up").unwrap();
        }
        pair.address("bond0", "bond0");
        pair.assert_redirects("bond0");
    }

    #[test]
    fn wireguard() {
        let pair = Pair::new();
        let ends = [(&pair.host, "192.0.2.1", "192.0.2.2"), (&pair.client, "192.0.2.2", "192.0.2.1")];
        let key = || command::run(Command::new("wg").arg("genkey")).expect("wg is there").trim().to_owned();
        let keys = [key(), key()];
        for (netns, own, _) in ends {
            netns.ip(&format!("addr add {own}/24 dev port0")).unwrap();
            netns.ip("link add wg0 type wireguard").expect("the kernel has wireguard");
        }
        for (place, (netns, _, peer)) in ends.into_iter().enumerate() {
            let folder = pair.run_dir.path();
            std::fs::write(folder.join("own"), &keys[place]).unwrap();
            std::fs::write(folder.join("peer"), &keys[1 - place]).unwrap();
            let script = format!(
                "wg set wg0 listen-port 51820 private-key {0}/own peer $(wg pubkey < {0}/peer) \
                 allowed-ips 0.0.0.0/0,::/0 endpoint {peer}:51820",
                folder.display()
            );
            command::run(netns.command("sh").args(["-c", &script])).unwrap();
        }
        pair.address("wg0", "wg0");
        pair.assert_redirects("wg0");
    }

    #[test]
    fn a_network_that_loses_packets() {
        let pair = Pair::new();
        pair.address("port0", "port0");
        for netns in [&pair.host, &pair.client] {
            let mut tc = netns.command("tc");
            command::run(
                tc.args(["qdisc", "add", "dev", "port0", "root", "netem", "loss", "5%", "delay", "1ms"]),
            )
            .expect("the kernel has sch_netem");
        }
        pair.attach(&["--interface", "port0"]);
        let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let echoed = pair.client.enter(|| {
            let stream = TcpStream::connect_timeout(&address(HOST[0], 80), DEADLINE).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let sent = sent.clone();
            let upload = thread::spawn(move || writer.write_all(&sent));
            let mut echoed = vec![0; 1 << 20];
            (&stream).read_exact(&mut echoed).unwrap();
            upload.join().unwrap().unwrap();
            echoed
        });
        assert!(echoed.unwrap() == sent, "what came back is what was sent");
    }
}
