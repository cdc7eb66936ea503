//! Frames made from scratch, checksums included.

use std::net::{IpAddr, SocketAddr};

use rprox_tests::checksum::checksum;

const TCP: u8 = 6;
const UDP: u8 = 17;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// A frame to be; [`Frame::bytes`] lays it out.
#[derive(Clone)]
pub(crate) struct Frame {
    /// VLAN tags in band, each by its `EtherType`, outermost first.
    pub(crate) vlan_tags: Vec<u16>,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
    /// IPv4 options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers, each its type and its bytes, the first byte to be filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) fragment: Option<Fragment>,
}

#[derive(Clone, Copy)]
pub(crate) enum Transport {
    Tcp {
        flags: u8,
    },
    Udp,
    /// UDP with checksum 0: the sender made none.
    UdpWithoutChecksum,
}

/// The bytes of the IP payload that this fragment carries.
#[derive(Clone, Copy)]
pub(crate) struct Fragment {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) more: bool,
}

impl Frame {
    pub(crate) fn new(transport: Transport, source: &str, destination: &str) -> Self {
        Self {
            vlan_tags: Vec::new(),
            source: source.parse().expect("a socket address"),
            destination: destination.parse().expect("a socket address"),
            transport,
            payload: b"some payload of odd length!".to_vec(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        }
    }

    pub(crate) fn tcp(source: &str, destination: &str) -> Self {
        Self::new(Transport::Tcp { flags: ACK }, source, destination)
    }

    pub(crate) fn udp(source: &str, destination: &str) -> Self {
        Self::new(Transport::Udp, source, destination)
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn with_destination_port(&self, port: u16) -> Self {
        self.clone().with(|frame| frame.destination.set_port(port))
    }

    pub(crate) fn with_source_port(&self, port: u16) -> Self {
        self.clone().with(|frame| frame.source.set_port(port))
    }

    /// The answer to it: source and destination change places.
    pub(crate) fn answer(&self) -> Self {
        self.clone().with(|frame| (frame.source, frame.destination) = (frame.destination, frame.source))
    }

    /// The whole frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        ethernet(&self.vlan_tags, if self.source.is_ipv4() { 0x0800 } else { 0x86dd }, &self.packet())
    }

    /// The IP packet in it.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let segment = self.segment();
        let part = match self.fragment {
            Some(Fragment { offset, len, .. }) => &segment[offset..(offset + len).min(segment.len())],
            None => &segment,
        };
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = 20 + self.options.len();
                let mut header = vec![0x40 | u8::try_from(header_len / 4).expect("options fit"), 0];
                header.extend_from_slice(&length(header_len + part.len()));
                header.extend_from_slice(&[0x12, 0x34]);
                let fragment = self.fragment.map_or(0x4000, fragment_field_v4);
                header.extend_from_slice(&fragment.to_be_bytes());
                header.extend_from_slice(&[64, self.protocol(), 0, 0]);
                header.extend_from_slice(&source.octets());
                header.extend_from_slice(&destination.octets());
                header.extend_from_slice(&self.options);
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [header.as_slice(), part].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (first, extensions) = self.extension_headers();
                let mut header = vec![0x60, 0x01, 0x23, 0x45];
                header.extend_from_slice(&length(extensions.len() + part.len()));
                header.extend_from_slice(&[first, 64]);
                header.extend_from_slice(&source.octets());
                header.extend_from_slice(&destination.octets());
                [header.as_slice(), &extensions, part].concat()
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// The extension headers as they stand in the packet, with the type of the first header after the fixed one.
    fn extension_headers(&self) -> (u8, Vec<u8>) {
        let mut headers = self.extensions.clone();
        if let Some(Fragment { offset, more, .. }) = self.fragment {
            let field = u16::try_from(offset).expect("fits") | u16::from(more);
            let [high, low] = field.to_be_bytes();
            headers.push((44, vec![0, 0, high, low, 0, 0, 0x56, 0x78]));
        }
        let types: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([self.protocol()]).collect();
        let mut bytes = Vec::new();
        for ((_, header), next) in headers.iter().zip(&types[1..]) {
            bytes.push(*next);
            bytes.extend_from_slice(&header[1..]);
        }
        (types[0], bytes)
    }

    fn protocol(&self) -> u8 {
        if matches!(self.transport, Transport::Tcp { .. }) { TCP } else { UDP }
    }

    /// The whole segment or datagram, before any fragmentation.
    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend_from_slice(&self.source.port().to_be_bytes());
        segment.extend_from_slice(&self.destination.port().to_be_bytes());
        let checksum_offset = match self.transport {
            Transport::Tcp { flags } => {
                segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            Transport::Udp | Transport::UdpWithoutChecksum => {
                segment.extend_from_slice(&length(8 + self.payload.len()));
                segment.extend_from_slice(&[0, 0]);
                6
            }
        };
        segment.extend_from_slice(&self.payload);
        if matches!(self.transport, Transport::UdpWithoutChecksum) {
            return segment;
        }
        let addresses = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
            (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
            _ => panic!("addresses of two families"),
        };
        let mut sum = checksum(&[&addresses, &[0, self.protocol()], &length(segment.len()), &segment]);
        if sum == 0 && matches!(self.transport, Transport::Udp) {
            sum = 0xffff;
        }
        segment[checksum_offset..checksum_offset + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// An Ethernet frame of `packet`.
pub(crate) fn ethernet(vlan_tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in vlan_tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&[0x20, 0x2a]);
    }
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

fn fragment_field_v4(fragment: Fragment) -> u16 {
    u16::try_from(fragment.offset / 8).expect("fits") | if fragment.more { 0x2000 } else { 0 }
}

fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("16 bits hold it").to_be_bytes()
}
