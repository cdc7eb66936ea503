//! Two hosts that differ in one thing: who redirects.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use rprox_tests::command;
use rprox_tests::netns::Netns;
use rprox_tests::programs::Programs;
use rprox_tests::run_dir::RunDir;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::wire::{self, Answer};

/// The redirect rules. Nobody listens on 8081 and on 5353.
pub(crate) const RULES: [(u16, u16, &str); 5] =
    [(80, 8080, "tcp"), (443, 8443, "tcp"), (81, 8081, "tcp"), (443, 8443, "udp"), (53, 5353, "udp")];
const TCP_PORTS: [u16; 2] = [8080, 8443];
const UDP_PORTS: [u16; 1] = [8443];

/// The host's addresses.
pub(crate) const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Settings that make answers depend on what is asked, and not on what else was asked in the same second.
const PARAMETERS: [(&str, &str); 20] = [
    ("net/ipv4/tcp_timestamps", "0"),
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/ipv4/tcp_synack_retries", "0"),
    ("net/ipv4/tcp_max_syn_backlog", "65535"),
    ("net/ipv4/tcp_invalid_ratelimit", "0"),
    ("net/ipv4/tcp_challenge_ack_limit", "2147483647"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_msgs_per_sec", "1000000"),
    ("net/ipv4/icmp_msgs_burst", "1000000"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv6/auto_flowlabels", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/core/somaxconn", "65535"),
    ("net/ipv4/ip_no_pmtu_disc", "0"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    // Room for all the datagrams of which a piece is missing.
    ("net/ipv4/ipfrag_high_thresh", "1000000000"),
    ("net/ipv6/ip6frag_high_thresh", "1000000000"),
    ("net/netfilter/nf_conntrack_frag6_high_thresh", "1000000000"),
];

/// What redirects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Iptables,
    /// rprox, by this mode.
    Rprox(&'static str),
}

/// A host with services behind the redirect, and a device of which the test is the other end.
pub(crate) struct Host {
    by: By,
    device: SyncDevice,
    listeners: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
    accepted: Vec<(SocketAddr, TcpStream)>,
    buffer: Vec<u8>,
    /// Dropped last.
    _netns: Netns,
    _folder: RunDir,
}

/// What came to a service's UDP socket: from whom, to which of the sockets, and what.
pub(crate) type Datagram = (SocketAddr, usize, Vec<u8>);

impl Host {
    pub(crate) fn new(by: By) -> Self {
        let netns = Netns::new("differential").expect("this test makes network namespaces, so it needs root");
        for (key, value) in PARAMETERS {
            // A kernel that does not have one in each namespace has it in none that matters here.
            let _ = netns.sysctl(key, value);
        }
        let device = netns
            .enter(|| DeviceBuilder::new().name("eth0").layer(Layer::L2).build_sync())
            .expect("enter the namespace")
            .expect("this test makes tap devices, so it needs root and /dev/net/tun");
        device.set_nonblocking(true).expect("a descriptor");
        for arguments in [
            "link set eth0 address 02:00:00:00:00:01 txqueuelen 10000",
            "address add 192.0.2.1/24 dev eth0",
            "address add 2001:db8::1/64 dev eth0 nodad",
            "link set eth0 up",
            // The test answers no question for addresses, and is told of everything at once.
            "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
            "neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
            "route add default via 192.0.2.2 dev eth0 quickack 1",
            "-6 route add default via 2001:db8::2 dev eth0 quickack 1",
        ] {
            netns.ip(arguments).expect("the device is set up");
        }
        let folder = RunDir::new().expect("a directory");
        redirect(by, &netns, &folder);
        let open = || {
            let any = Ipv6Addr::UNSPECIFIED;
            let listeners = TCP_PORTS.map(|port| TcpListener::bind((any, port)).expect("a listener"));
            let sockets = UDP_PORTS.map(|port| UdpSocket::bind((any, port)).expect("a socket"));
            for listener in &listeners {
                listener.set_nonblocking(true).expect("a descriptor");
            }
            for socket in &sockets {
                socket.set_nonblocking(true).expect("a descriptor");
            }
            (listeners.into(), sockets.into())
        };
        let (listeners, sockets) = netns.enter(open).expect("enter the namespace");
        let buffer = vec![0; 65_536];
        Self { by, device, listeners, sockets, accepted: Vec::new(), buffer, _netns: netns, _folder: folder }
    }

    pub(crate) fn by(&self) -> By {
        self.by
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.device
            .send(frame)
            .unwrap_or_else(|error| panic!("the device takes a frame of {}: {error}", frame.len()));
    }

    pub(crate) fn send_all(&self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.send(frame);
        }
    }

    /// The next frame for `client`, if one is there.
    pub(crate) fn receive(&mut self, client: SocketAddr) -> Option<Vec<u8>> {
        loop {
            match self.device.recv(&mut self.buffer) {
                Ok(len) => {
                    let frame = &self.buffer[..len];
                    if wire::is_for(frame, client) {
                        return Some(frame.to_vec());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("read from the device: {error}"),
            }
        }
    }

    /// Takes what came to the UDP services, and sends each datagram back where it came from.
    pub(crate) fn echo(&mut self) -> Vec<Datagram> {
        let mut datagrams = Vec::new();
        for (place, socket) in self.sockets.iter().enumerate() {
            while let Ok((len, from)) = socket.recv_from(&mut self.buffer) {
                datagrams.push((from, place, self.buffer[..len].to_vec()));
                let _ = socket.send_to(&self.buffer[..len], from);
            }
        }
        datagrams
    }

    /// Takes the connections that have been made; what has a client's address.
    pub(crate) fn accept(&mut self) -> Vec<SocketAddr> {
        let mut made = Vec::new();
        for listener in &self.listeners {
            while let Ok((stream, client)) = listener.accept() {
                stream.set_nonblocking(true).expect("a descriptor");
                made.push(client);
                self.accepted.push((client, stream));
            }
        }
        made
    }

    /// The connections that were accepted last.
    pub(crate) fn connections(&mut self) -> &mut Vec<(SocketAddr, TcpStream)> {
        &mut self.accepted
    }
}

fn redirect(by: By, netns: &Netns, folder: &RunDir) {
    if let By::Rprox(mode) = by {
        let mut loader = netns.command(Programs::find().expect("built programs").loader);
        loader
            .args(["attach", "-i", "eth0", "--mode", mode, "--owner", "any", "--bpffs"])
            .arg(folder.bpffs());
        for (from, to, protocol) in RULES {
            loader.args(["-r", &format!("{from}:{to}/{protocol}")]);
        }
        command::run(&mut loader).expect("the loader attaches");
        return;
    }
    for program in ["iptables", "ip6tables"] {
        for (from, to, protocol) in RULES {
            let rule = format!(
                "-t nat -A PREROUTING -i eth0 -p {protocol} --dport {from} -j REDIRECT --to-ports {to}"
            );
            command::run(netns.command(program).args(rule.split(' '))).expect("a rule of iptables");
        }
    }
    // The table that it keeps holds what a run leaves for no longer than needed.
    for state in
        ["udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout", "tcp_timeout_syn_sent"]
    {
        netns.sysctl(&format!("net/netfilter/nf_conntrack_{state}"), "5").expect("a parameter");
    }
    for state in ["close", "time_wait", "last_ack", "close_wait", "fin_wait", "syn_recv", "unacknowledged"] {
        netns.sysctl(&format!("net/netfilter/nf_conntrack_tcp_timeout_{state}"), "10").expect("a parameter");
    }
}

/// Both hosts.
pub(crate) struct Pair {
    pub(crate) hosts: [Host; 2],
}

/// What a host made of some frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Answer>,
    pub(crate) datagrams: Vec<Datagram>,
    pub(crate) accepted: Vec<SocketAddr>,
}

/// An answer that a busy machine owes for longer than this is none.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);
/// Where a known difference keeps one host from answering at all.
pub(crate) const LITTLE: Duration = Duration::from_millis(1);

impl Pair {
    /// Two hosts, the second of which redirects by `mode`.
    pub(crate) fn new(mode: &'static str) -> Self {
        Self { hosts: [By::Iptables, By::Rprox(mode)].map(Host::new) }
    }

    /// Has `act` done to each host, then gathers what each makes of it for `client`, until both are alike or neither has more to
    /// say for as long as `patience`; of answers there are to be at least `least`. `initial` are the hosts' initial sequence numbers, which are learned on the way.
    pub(crate) fn compare(
        &mut self,
        client: SocketAddr,
        patience: Duration,
        least: usize,
        initial: &mut [Option<u32>; 2],
        mut act: impl FnMut(&mut Host, Option<u32>),
    ) -> [Outcome; 2] {
        let mut outcomes = [Outcome::default(), Outcome::default()];
        for (host, initial) in self.hosts.iter_mut().zip(&*initial) {
            act(host, *initial);
        }
        let deadline = Instant::now() + patience;
        loop {
            for ((host, outcome), initial) in self.hosts.iter_mut().zip(&mut outcomes).zip(&mut *initial) {
                outcome.datagrams.extend(host.echo());
                while let Some(frame) = host.receive(client) {
                    if let Some(answer) = wire::tcp(&frame)
                        && answer.flags & wire::SYN != 0
                    {
                        *initial = Some(answer.sequence);
                    }
                    outcome.answers.push(wire::normalise(&frame, *initial));
                }
                outcome.accepted.extend(host.accept());
            }
            let is_enough = outcomes[0].answers.len() >= least;
            if (is_enough && outcomes[0] == outcomes[1]) || Instant::now() >= deadline {
                return outcomes;
            }
            thread::yield_now();
        }
    }
}
