//! Packets as they go over the wire: made from scratch, and brought to a form in which two hosts' answers can be compared.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rprox_tests::checksum::checksum;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ETHERNET: usize = 14;

/// A packet to be, from a client to the host.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) client: SocketAddr,
    pub(crate) host: SocketAddr,
    pub(crate) segment: Segment,
    pub(crate) payload: Vec<u8>,
    pub(crate) ttl: u8,
    /// IPv4 options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers, each its type and its bytes, the first byte to be filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// Where to cut what the IP header carries into fragments, at multiples of 8 bytes.
    pub(crate) cuts: Vec<usize>,
    pub(crate) identification: u16,
    pub(crate) checksum: Checksum,
    /// How many bytes of the last frame are lost.
    pub(crate) lost: usize,
    pub(crate) vlan: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Segment {
    Tcp {
        sequence: u32,
        acknowledged: u32,
        flags: u8,
        options: Vec<u8>,
    },
    Udp,
    /// An ICMP or `ICMPv6` message: type, code and the four bytes after the checksum; the rest is the payload.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    Wrong,
    /// UDP over IPv4 may go without one.
    None,
}

impl Packet {
    pub(crate) fn new(client: SocketAddr, host: SocketAddr, segment: Segment) -> Self {
        Self {
            client,
            host,
            segment,
            payload: Vec::new(),
            ttl: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            cuts: Vec::new(),
            identification: 0x1234,
            checksum: Checksum::Right,
            lost: 0,
            vlan: false,
        }
    }

    pub(crate) fn tcp(
        client: SocketAddr,
        host: SocketAddr,
        sequence: u32,
        acknowledged: u32,
        flags: u8,
    ) -> Self {
        Self::new(client, host, Segment::Tcp { sequence, acknowledged, flags, options: Vec::new() })
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp { .. } => TCP,
            Segment::Udp => UDP,
            Segment::Icmp { .. } if self.host.is_ipv4() => ICMP,
            Segment::Icmp { .. } => ICMPV6,
        }
    }

    /// The frames that carry it, in order.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let whole = self.transport();
        let mut ends: Vec<usize> = self.cuts.iter().copied().filter(|cut| *cut < whole.len()).collect();
        ends.push(whole.len());
        let mut frames = Vec::new();
        let mut start = 0;
        for end in ends {
            let more = end < whole.len();
            let part = &whole[start..end];
            let packet =
                if self.host.is_ipv4() { self.v4(part, start, more) } else { self.v6(part, start, more) };
            let ethertype: u16 = if self.host.is_ipv4() { 0x0800 } else { 0x86dd };
            let tag: &[u8] = if self.vlan { &[0x81, 0, 0, 42] } else { &[] };
            frames.push([&HOST_MAC[..], &CLIENT_MAC, tag, &ethertype.to_be_bytes(), &packet].concat());
            start = end;
        }
        if let Some(last) = frames.last_mut() {
            last.truncate(last.len().saturating_sub(self.lost).max(ETHERNET));
        }
        frames
    }

    fn v4(&self, part: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let fragment = word(offset / 8) | if more { 0x2000 } else { 0 };
        let mut header = vec![0x40 | u8::try_from(header_len / 4).expect("fits"), 0];
        header.extend_from_slice(&word(header_len + part.len()).to_be_bytes());
        header.extend_from_slice(&self.identification.to_be_bytes());
        header.extend_from_slice(&fragment.to_be_bytes());
        header.extend_from_slice(&[self.ttl, self.protocol(), 0, 0]);
        header.extend_from_slice(&octets(self.client.ip()));
        header.extend_from_slice(&octets(self.host.ip()));
        header.extend_from_slice(&self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header.as_slice(), part].concat()
    }

    fn v6(&self, part: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        if offset > 0 || more {
            let [high, low] = (word(offset) | u16::from(more)).to_be_bytes();
            let [a, b] = self.identification.to_be_bytes();
            headers.push((FRAGMENT, vec![0, 0, high, low, 0, 0, a, b]));
        }
        let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([self.protocol()]).collect();
        let mut carried = Vec::new();
        for ((_, header), next) in headers.iter().zip(&kinds[1..]) {
            carried.push(*next);
            carried.extend_from_slice(&header[1..]);
        }
        carried.extend_from_slice(part);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&word(carried.len()).to_be_bytes());
        packet.extend_from_slice(&[kinds[0], self.ttl]);
        packet.extend_from_slice(&octets(self.client.ip()));
        packet.extend_from_slice(&octets(self.host.ip()));
        [packet, carried].concat()
    }

    /// What the IP header carries.
    fn transport(&self) -> Vec<u8> {
        let ports = [self.client.port().to_be_bytes(), self.host.port().to_be_bytes()].concat();
        let (mut bytes, at) = match &self.segment {
            Segment::Tcp { sequence, acknowledged, flags, options } => {
                let offset = u8::try_from((20 + options.len()) / 4).expect("fits") << 4;
                let numbers = [sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat();
                ([&ports[..], &numbers, &[offset, *flags, 0xff, 0xff, 0, 0, 0, 0], options].concat(), 16)
            }
            Segment::Udp => ([&ports[..], &word(8 + self.payload.len()).to_be_bytes(), &[0, 0]].concat(), 6),
            Segment::Icmp { kind, code, rest } => ([&[*kind, *code, 0, 0], &rest[..]].concat(), 2),
        };
        bytes.extend_from_slice(&self.payload);
        if self.checksum != Checksum::None {
            let mut sum = transport_checksum(self.client.ip(), self.host.ip(), self.protocol(), &bytes);
            if self.checksum == Checksum::Wrong {
                sum ^= 0x0101;
            }
            // 0 would say that there is none.
            let sum = if sum == 0 { 0xffff } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// A frame from the host, taken apart as far as the comparison needs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The IP packet without what differs between any two hosts or runs: the identification, the flow label, the checksums, which
    /// have been checked, and the host's own initial sequence number.
    pub(crate) packet: Vec<u8>,
    /// Whether its checksums were right.
    pub(crate) sound: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 120;
        write!(f, "{} bytes, sound {}: ", self.packet.len(), self.sound)?;
        self.packet.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The parts of a TCP answer that a client goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TcpAnswer {
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
}

/// Whom a frame of the host's is for; `None` for what is no TCP, UDP or ICMP packet.
pub(crate) fn destination(frame: &[u8]) -> Option<(IpAddr, usize, u8)> {
    let packet = frame.get(ETHERNET..)?;
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((octets.into(), usize::from(packet[0] & 15) * 4, packet[9]))
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((octets.into(), 40, packet[6]))
        }
        _ => None,
    }
}

/// Whether a frame is for `client`, port and all: an answer to another that comes late is not.
pub(crate) fn is_for(frame: &[u8], client: SocketAddr) -> bool {
    let Some((to, header, protocol)) = destination(frame) else { return false };
    let port = |at: usize| {
        frame.get(ETHERNET + at..ETHERNET + at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]))
    };
    let own = match protocol {
        TCP | UDP => port(header + 2),
        // An error speaks of what the client sent; other messages have no port.
        ICMP if frame.get(ETHERNET + header).is_some_and(|kind| [3, 11, 12].contains(kind)) => {
            let about = header + 8;
            frame.get(ETHERNET + about).and_then(|first| port(about + usize::from(first & 15) * 4))
        }
        _ => Some(client.port()),
    };
    to == client.ip() && own == Some(client.port())
}

/// The TCP header's parts, if it is a TCP packet.
pub(crate) fn tcp(frame: &[u8]) -> Option<TcpAnswer> {
    let (_, header, protocol) = destination(frame)?;
    let segment = frame.get(ETHERNET + header..)?;
    (protocol == TCP).then_some(())?;
    Some(TcpAnswer {
        sequence: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
        flags: *segment.get(13)?,
    })
}

/// Brings a frame to the form to compare, given the host's initial sequence number if it is known.
pub(crate) fn normalise(frame: &[u8], initial: Option<u32>) -> Answer {
    let mut packet = frame[ETHERNET.min(frame.len())..].to_vec();
    let Some((to, header, protocol)) = destination(frame) else { return Answer { packet, sound: false } };
    let from: IpAddr = match to {
        IpAddr::V4(_) => <[u8; 4]>::try_from(&packet[12..16]).expect("four bytes").into(),
        IpAddr::V6(_) => <[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes").into(),
    };
    let mut sound = transport_checksum(from, to, protocol, &packet[header..]) == 0;
    if protocol == UDP && to.is_ipv4() && packet[header + 6..header + 8] == [0, 0] {
        sound = true;
    }
    let cut = match to {
        IpAddr::V4(_) => u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0,
        IpAddr::V6(_) => protocol == FRAGMENT,
    };
    if cut {
        // Its transport checksum is that of the whole, and is compared as it stands.
        sound = true;
    }
    if to.is_ipv4() {
        sound &= checksum(&[&packet[..header]]) == 0;
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    } else {
        packet[1..4].fill(0);
        if cut {
            packet[header + 4..header + 8].fill(0);
        }
    }
    if protocol == TCP && !cut {
        let sequence = u32::from_be_bytes(packet[header + 4..header + 8].try_into().expect("four bytes"));
        let flags = packet[header + 13];
        let own = match initial {
            _ if flags & SYN != 0 => 0,
            // A reset of what nobody knows of counts from nothing.
            Some(initial) if sequence != 0 => sequence.wrapping_sub(initial),
            _ => sequence,
        };
        packet[header + 4..header + 8].copy_from_slice(&own.to_be_bytes());
        packet[header + 16..header + 18].fill(0);
    }
    Answer { packet, sound }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn word(number: usize) -> u16 {
    u16::try_from(number).expect("16 bits hold it")
}

fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    if protocol == ICMP {
        return checksum(&[bytes]);
    }
    checksum(&[&octets(from), &octets(to), &[0, protocol], &word(bytes.len()).to_be_bytes(), bytes])
}
