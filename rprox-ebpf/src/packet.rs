//! Where a packet's ports and addresses are: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers.
//!
//! Headers are read in place, by direct packet access, which the verifier wants a bounds check for at each read. What is
//! read are positions and ports only; addresses are read when a rule wants them.

use core::mem::size_of;

use aya_ebpf::{Global, programs::TcContext};
use rprox_common::{Address, Protocol};

/// Bytes of link-layer header; the loader sets it by the kind of device.
#[unsafe(no_mangle)]
static LINK_HEADER_LEN: Global<u32> = Global::new(ETHERNET_LEN as u32);

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
/// An inner and an outer tag (IEEE 802.1ad); a tag that the device has taken off isn't in the packet's bytes.
const MAX_VLAN_TAGS: usize = 2;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// IPv6 extension headers that are walked over. RFC 8200 section 4.1 names six in their recommended order, one of them
/// twice.
const MAX_EXTENSION_HEADERS: usize = 8;
/// Headers beyond this are not looked for; it also bounds offsets for the verifier.
const MAX_HEADERS_LEN: usize = 512;
/// The ports, which TCP (RFC 9293 section 3.1) and UDP (RFC 768) both begin with.
const PORTS_LEN: usize = 4;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

const IPPROTO_HOP_BY_HOP: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_DESTINATION_OPTIONS: u8 = 60;

/// What a packet is to the redirect.
pub enum Packet {
    /// It carries ports.
    Segment(Segment),
    /// It is sound, and carries none: another protocol, or a fragment after the first.
    Other,
}

/// A TCP segment or UDP datagram, or the first fragment of one.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Its protocol.
    pub protocol: Protocol,
    /// Source port, in network order.
    pub source_port: u16,
    /// Destination port, in network order.
    pub destination_port: u16,
    /// Where its transport header begins.
    pub transport: usize,
    /// Where its IP header begins.
    network: usize,
    /// Where the IP packet ends.
    end: usize,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// The packet is cut short, or malformed, where a header should be.
pub struct NotParsed;

/// Why [`parse`] gave up.
enum Stop {
    /// The linear part of the packet ends here; there may be more of it.
    OutOfReach,
    NotParsed,
}

impl Packet {
    /// Parses the headers of the packet.
    ///
    /// Drivers keep all headers in the linear part as a rule. Where they don't, the headers are pulled in and the parsing
    /// begins again.
    #[inline(always)]
    pub fn parse(ctx: &TcContext) -> Result<Self, NotParsed> {
        let mut pulled = false;
        loop {
            match parse(ctx) {
                Ok(packet) => return Ok(packet),
                Err(Stop::OutOfReach) if !pulled && pull_headers(ctx) => pulled = true,
                Err(_) => return Err(NotParsed),
            }
        }
    }
}

/// Whether there were headers to pull into the linear part, and they are there now.
#[inline(always)]
fn pull_headers(ctx: &TcContext) -> bool {
    let linear = (ctx.data_end() - ctx.data()) as u32;
    let wanted = ctx.len().min((MAX_HEADERS_LEN + PORTS_LEN) as u32);
    linear < wanted && ctx.pull_data(wanted).is_ok()
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Result<Packet, Stop> {
    let mut network = LINK_HEADER_LEN.load() as usize;
    let ethertype = if network == 0 {
        ctx.skb.protocol() as u16
    } else {
        let mut ethertype = read(ctx, ETHERNET_LEN - 2)?;
        for _ in 0..MAX_VLAN_TAGS {
            if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
                break;
            }
            ethertype = read(ctx, network + VLAN_LEN - 2)?;
            network += VLAN_LEN;
        }
        ethertype
    };
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(ctx, network),
        ETHERTYPE_IPV6 => parse_ipv6(ctx, network),
        _ => Ok(Packet::Other),
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn parse_ipv4(ctx: &TcContext, network: usize) -> Result<Packet, Stop> {
    const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

    let header: [u8; 10] = read(ctx, network)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_LEN {
        return Err(Stop::NotParsed);
    }
    let protocol = match header[9] {
        IPPROTO_TCP => Protocol::Tcp,
        IPPROTO_UDP => Protocol::Udp,
        // ICMP errors belong here.
        _ => return Ok(Packet::Other),
    };
    if u16::from_ne_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0 {
        return Ok(Packet::Other);
    }
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    segment(ctx, Version::V4, protocol, network, network + header_len, network, total_len)
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn parse_ipv6(ctx: &TcContext, network: usize) -> Result<Packet, Stop> {
    const FRAGMENT_OFFSET: u16 = 0xfff8_u16.to_be();

    let header: [u8; 8] = read(ctx, network)?;
    if header[0] >> 4 != 6 {
        return Err(Stop::NotParsed);
    }
    let payload = network + IPV6_LEN;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    let mut offset = payload;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let protocol = match next {
            IPPROTO_TCP => Protocol::Tcp,
            IPPROTO_UDP => Protocol::Udp,
            IPPROTO_HOP_BY_HOP
            | IPPROTO_ROUTING
            | IPPROTO_FRAGMENT
            | IPPROTO_AUTHENTICATION
            | IPPROTO_DESTINATION_OPTIONS => {
                if offset > MAX_HEADERS_LEN {
                    return Err(Stop::NotParsed);
                }
                let extension: [u8; 4] = read(ctx, offset)?;
                let units = usize::from(extension[1]);
                offset += match next {
                    IPPROTO_FRAGMENT => {
                        if u16::from_ne_bytes([extension[2], extension[3]]) & FRAGMENT_OFFSET != 0 {
                            return Ok(Packet::Other);
                        }
                        8
                    }
                    // RFC 4302 section 2.2: in units of 4 bytes, less 2.
                    IPPROTO_AUTHENTICATION => (units + 2) * 4,
                    // Segments are left: the destination address is not the final one.
                    IPPROTO_ROUTING if extension[3] != 0 => return Ok(Packet::Other),
                    _ => (units + 1) * 8,
                };
                next = extension[0];
                continue;
            }
            // ICMPv6 errors belong here.
            _ => return Ok(Packet::Other),
        };
        return segment(ctx, Version::V6, protocol, network, offset, payload, payload_len);
    }
    Err(Stop::NotParsed)
}

/// Reads the ports at `transport`, if the IP packet, which has `len` bytes from `start`, reaches that far.
#[inline(always)]
fn segment(
    ctx: &TcContext,
    version: Version,
    protocol: Protocol,
    network: usize,
    transport: usize,
    start: usize,
    len: usize,
) -> Result<Packet, Stop> {
    // A length of 0 says that 16 bits don't hold it: jumbograms (RFC 2675) and the kernel's BIG TCP.
    let end = if len == 0 { ctx.len() as usize } else { start + len };
    if end < transport + PORTS_LEN || end > ctx.len() as usize || transport > MAX_HEADERS_LEN {
        return Err(Stop::NotParsed);
    }
    let [source_port, destination_port]: [u16; 2] = read(ctx, transport)?;
    Ok(Packet::Segment(Segment { protocol, source_port, destination_port, transport, network, end, version }))
}

impl Segment {
    /// The source address.
    #[inline(always)]
    pub fn source(&self, ctx: &TcContext) -> Option<Address> {
        self.address(ctx, 12, 8)
    }

    /// The destination address.
    #[inline(always)]
    pub fn destination(&self, ctx: &TcContext) -> Option<Address> {
        self.address(ctx, 16, 24)
    }

    #[inline(always)]
    fn address(&self, ctx: &TcContext, in_ipv4: usize, in_ipv6: usize) -> Option<Address> {
        match self.version {
            Version::V4 => read(ctx, self.network + in_ipv4).ok().map(Address::from_v4_raw),
            Version::V6 => read(ctx, self.network + in_ipv6).ok().map(Address),
        }
    }

    /// Where the transport checksum is, if the packet reaches that far.
    #[inline(always)]
    pub fn checksum(&self) -> Option<usize> {
        let offset = self.transport
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            };
        (offset + 2 <= self.end).then_some(offset)
    }

    /// Whether it opens a TCP connection: SYN without ACK.
    #[inline(always)]
    pub fn opens_connection(&self, ctx: &TcContext) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.protocol == Protocol::Tcp
            && read(ctx, self.transport + 13).is_ok_and(|flags: u8| flags & (SYN | ACK) == SYN)
    }
}

/// Reads a value of plain integers at `offset`, which the caller has bounded.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Stop> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(Stop::OutOfReach);
    }
    // SAFETY: the bytes lie within the packet, as just checked, and the verifier proves it again; T is plain integers.
    Ok(unsafe { (start as *const T).read_unaligned() })
}
