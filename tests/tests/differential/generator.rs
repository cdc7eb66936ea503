//! What is sent: the same for the same seed, on every machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::host::ADDRESSES;
use crate::wire::{ACK, Checksum, FIN, PSH, Packet, RST, SYN, Segment};

/// The variable that sets the seed.
pub(crate) const SEED: &str = "RPROX_SEED";

/// A source of packets, none of which shares a client's address and port with another.
pub(crate) struct Generator {
    pub(crate) random: ChaCha8Rng,
    clients: u32,
}

impl Generator {
    /// Begins at the seed in [`SEED`], or at one of its own; says which.
    pub(crate) fn new(what: &str) -> Self {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is no number")),
            Err(_) => rand::random::<u64>(),
        };
        println!("{what}: {SEED}={seed}");
        Self { random: ChaCha8Rng::seed_from_u64(seed), clients: 0 }
    }

    /// A client that has not been before, and the host's address of its family.
    pub(crate) fn ends(&mut self, port: u16) -> (SocketAddr, SocketAddr) {
        self.clients += 1;
        let own_port = u16::try_from(1_024 + self.clients % 60_000).expect("fits");
        let net = u8::try_from(self.clients / 60_000).expect("fewer than 15 million clients");
        let [v4, v6]: [IpAddr; 2] = ADDRESSES.map(|address| address.parse().expect("an address"));
        if self.random.random() {
            (
                SocketAddr::new(Ipv4Addr::new(198, 51, 100, 1 + net).into(), own_port),
                SocketAddr::new(v4, port),
            )
        } else {
            let client = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1 + u16::from(net));
            (SocketAddr::new(client.into(), own_port), SocketAddr::new(v6, port))
        }
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes[..]);
        bytes
    }

    pub(crate) fn payload(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..4) {
            0 => 0,
            1 => self.random.random_range(1..16),
            2 => self.random.random_range(16..200),
            _ => self.random.random_range(200..1_300),
        };
        self.bytes(len)
    }

    /// A packet that belongs to nothing before it.
    pub(crate) fn packet(&mut self) -> Packet {
        let segment = match self.random.random_range(0..10) {
            0..5 => self.tcp_segment(),
            5..9 => Segment::Udp,
            _ => Segment::Icmp { kind: 0, code: 0, rest: self.random.random() },
        };
        let port = match segment {
            Segment::Tcp { .. } => self.choice(&[80, 80, 80, 443, 443, 81, 81, 22, 53, 8080, 8081, 8443]),
            _ => self.choice(&[443, 443, 443, 53, 53, 80, 9, 5353, 8443]),
        };
        let (client, host) = self.ends(port);
        let mut packet = Packet::new(client, host, segment);
        if let Segment::Icmp { kind, code, .. } = &mut packet.segment {
            let v4 = host.is_ipv4();
            // Echo requests, and errors and other messages about nothing.
            *kind = if v4 {
                self.choice(&[8, 8, 3, 4, 5, 11, 12, 12])
            } else {
                self.choice(&[128, 128, 1, 2, 3, 4, 100])
            };
            *code = self.random.random_range(0..4);
        }
        packet.payload = self.payload();
        packet.ttl = self.choice(&[1, 2, 63, 64, 255]);
        // Two datagrams of a client's never share one, or the pieces of one would end in the other.
        packet.identification = client.port();
        self.vary(&mut packet);
        packet
    }

    fn tcp_segment(&mut self) -> Segment {
        let flags = match self.random.random_range(0..10) {
            0..5 => SYN,
            5 => ACK,
            6 => self.choice(&[ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK]),
            7 => self.choice(&[SYN | 0xc0, SYN | 0x40, ACK | 0x20]),
            8 => self.choice(&[0, FIN, SYN | FIN, SYN | RST, FIN | PSH | 0x20, 0x3f]),
            _ => self.random.random(),
        };
        let options = match self.random.random_range(0..4) {
            0 => Vec::new(),
            // The segment size, and then a window scale, or selective acknowledgement, or nothing known.
            1 => vec![2, 4, 5, 0xb4],
            2 => vec![2, 4, 0x02, 0x18, 1, 3, 3, 7, 4, 2, 1, 1],
            _ => vec![254, 4, 1, 2, 1, 1, 1, 0],
        };
        Segment::Tcp { sequence: self.random.random(), acknowledged: self.random.random(), flags, options }
    }

    /// Makes it an unusual one, now and then.
    fn vary(&mut self, packet: &mut Packet) {
        let udp = matches!(packet.segment, Segment::Udp);
        if self.one_in(6) {
            if packet.host.is_ipv4() {
                // No-operation and the end of the list; a router alert.
                packet.options =
                    self.choice_of(&[&[1, 1, 1, 0], &[1, 1, 1, 1, 1, 1, 1, 0], &[0x94, 4, 0, 0]]);
            } else {
                // Hop-by-hop options and destination options: padding, of which hosts take 7 bytes at most, and an experiment (RFC 4727).
                packet.extensions = match self.random.random_range(0..3) {
                    0 => vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])],
                    1 => vec![(60, vec![0, 1, 0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                    _ => vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
                };
            }
        }
        if self.one_in(6) {
            let size = 8 + packet.payload.len();
            let cut = |this: &mut Self| 8 * this.random.random_range(1..=(size / 8).max(1));
            packet.cuts = vec![cut(self), cut(self)];
            packet.cuts.sort_unstable();
            packet.cuts.dedup();
        }
        if self.one_in(12) {
            packet.checksum = if udp && self.random.random() { Checksum::None } else { Checksum::Wrong };
        }
        if self.one_in(12) {
            packet.lost = self.random.random_range(1..60);
        }
        packet.vlan = self.one_in(40);
    }

    pub(crate) fn choice<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("something to choose from")
    }

    fn choice_of(&mut self, from: &[&[u8]]) -> Vec<u8> {
        self.choice(from).to_vec()
    }
}
