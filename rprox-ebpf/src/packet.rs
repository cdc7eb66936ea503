//! Where a packet's ports and addresses are: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, and the
//! packet that an ICMP error speaks of.
//!
//! Headers are read in place, by direct packet access, which the verifier wants a bounds check for at each read. What is
//! read are positions and ports only; addresses are read when a rule wants them.

use core::mem::size_of;

use aya_ebpf::{Global, programs::TcContext};
use rprox_common::{Address, Protocol};

use crate::connection;

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
/// The same within an ICMP error. The verifier walks each of these for each of those.
const MAX_EXTENSION_HEADERS_IN_ERROR: usize = 2;
/// Headers beyond this are not looked for; it also bounds offsets for the verifier.
const MAX_HEADERS_LEN: usize = 512;
/// The ports, which TCP (RFC 9293 section 3.1) and UDP (RFC 768) both begin with.
const PORTS_LEN: usize = 4;
/// Before the packet that an ICMP (RFC 792) or ICMPv6 (RFC 4443 section 2.1) error carries.
const ICMP_LEN: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

const IPPROTO_HOP_BY_HOP: u8 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_DESTINATION_OPTIONS: u8 = 60;

/// What a packet is to the redirect.
pub enum Packet {
    /// It carries ports.
    Segment(Segment),
    /// It is an ICMP error about a packet that carried ports.
    Error(IcmpError),
    /// It is sound, and carries none: another protocol, TCP that is left alone, or a fragment after the first.
    Other,
}

/// What is done with a packet.
pub trait Handler {
    /// What comes of it.
    type Outcome;

    /// Does it.
    fn handle(ctx: &TcContext, packet: Packet) -> Self::Outcome;
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
    /// Where the bytes end that may be changed.
    end: usize,
    /// Where its IP header begins.
    network: usize,
    version: Version,
}

/// An ICMP or ICMPv6 error.
#[derive(Clone, Copy)]
pub struct IcmpError {
    /// Where its checksum is.
    pub checksum: usize,
    /// The head of the packet that it speaks of.
    pub about: Segment,
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
    /// Parses the headers of the packet, and has it handled by `H`, of which there is a copy for each IP version: so each copy knows
    /// where things are.
    ///
    /// Drivers keep all headers in the linear part as a rule. Where they don't, the headers are pulled in and the parsing
    /// begins again.
    #[inline(always)]
    pub fn parse<H: Handler>(ctx: &TcContext) -> Result<H::Outcome, NotParsed> {
        let mut pulled = false;
        loop {
            match parse::<H>(ctx) {
                Ok(outcome) => return Ok(outcome),
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
fn parse<H: Handler>(ctx: &TcContext) -> Result<H::Outcome, Stop> {
    let (ethertype, network) = link(ctx)?;
    Ok(match ethertype {
        ETHERTYPE_IPV4 => H::handle(ctx, parse_ip(ctx, Version::V4, network)?),
        ETHERTYPE_IPV6 => H::handle(ctx, parse_ip(ctx, Version::V6, network)?),
        _ => H::handle(ctx, Packet::Other),
    })
}

#[inline(always)]
fn parse_ip(ctx: &TcContext, version: Version, network: usize) -> Result<Packet, Stop> {
    let Some(ip) = Ip::parse::<MAX_EXTENSION_HEADERS>(ctx, version, network)? else {
        return Ok(Packet::Other);
    };
    if ip.end > ctx.len() as usize {
        return Err(Stop::NotParsed);
    }
    if let Some(protocol) = ip.transport_protocol() {
        return ip.segment(ctx, protocol, ip.end).map(Packet::Segment);
    }
    if !ip.is_icmp_error(ctx)? {
        return Ok(Packet::Other);
    }
    let Some(about) = Ip::parse::<MAX_EXTENSION_HEADERS_IN_ERROR>(ctx, version, ip.transport + ICMP_LEN)?
    else {
        return Ok(Packet::Other);
    };
    let Some(protocol) = about.transport_protocol() else { return Ok(Packet::Other) };
    let about = about.segment(ctx, protocol, ip.end)?;
    Ok(Packet::Error(IcmpError { checksum: ip.transport + 2, about }))
}

/// The `EtherType` of what the link-layer header carries, and where that begins.
#[inline(always)]
fn link(ctx: &TcContext) -> Result<(u16, usize), Stop> {
    let mut network = LINK_HEADER_LEN.load() as usize;
    if network == 0 {
        return Ok((ctx.skb.protocol() as u16, 0));
    }
    let mut ethertype = read(ctx, ETHERNET_LEN - 2)?;
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = read(ctx, network + VLAN_LEN - 2)?;
        network += VLAN_LEN;
    }
    Ok((ethertype, network))
}

/// The first half of an IPv4 header (RFC 791 section 3.1), as it goes over the wire.
#[repr(C, packed)]
struct Ipv4Header {
    version_and_len: u8,
    type_of_service: u8,
    total_len: u16,
    identification: u16,
    fragment: u16,
    time_to_live: u8,
    protocol: u8,
}

/// The first fields of an IPv6 header (RFC 8200 section 3), as they go over the wire.
#[repr(C, packed)]
struct Ipv6Header {
    version: u8,
    flow: [u8; 3],
    payload_len: u16,
    next: u8,
    hop_limit: u8,
}

/// An IP header with its options or extension headers.
struct Ip {
    version: Version,
    /// The protocol of what it carries.
    protocol: u8,
    /// Where it begins.
    network: usize,
    /// Where what it carries begins.
    transport: usize,
    /// Where the packet ends, as it says.
    end: usize,
}

impl Ip {
    /// `None` where nothing stands behind the header that has ports to be read: in a fragment after the first, or with segments
    /// left to route through. Walks over `EXTENSIONS` IPv6 extension headers at the most.
    #[inline(always)]
    fn parse<const EXTENSIONS: usize>(
        ctx: &TcContext,
        version: Version,
        network: usize,
    ) -> Result<Option<Self>, Stop> {
        if network > MAX_HEADERS_LEN {
            return Err(Stop::NotParsed);
        }
        match version {
            Version::V4 => Self::parse_v4(ctx, network),
            Version::V6 => Self::parse_v6::<EXTENSIONS>(ctx, network),
        }
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn parse_v4(ctx: &TcContext, network: usize) -> Result<Option<Self>, Stop> {
        const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

        let header: &Ipv4Header = at(ctx, network)?;
        let header_len = usize::from(header.version_and_len & 0x0f) * 4;
        if header.version_and_len >> 4 != 4 || header_len < IPV4_LEN {
            return Err(Stop::NotParsed);
        }
        if header.fragment & FRAGMENT_OFFSET != 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            version: Version::V4,
            protocol: header.protocol,
            network,
            transport: network + header_len,
            end: end(ctx, network, header.total_len),
        }))
    }

    /// RFC 8200 sections 3 and 4.
    #[inline(always)]
    fn parse_v6<const EXTENSIONS: usize>(ctx: &TcContext, network: usize) -> Result<Option<Self>, Stop> {
        const FRAGMENT_OFFSET: u16 = 0xfff8_u16.to_be();

        let header: &Ipv6Header = at(ctx, network)?;
        if header.version >> 4 != 6 {
            return Err(Stop::NotParsed);
        }
        let mut protocol = header.next;
        let mut transport = network + IPV6_LEN;
        let end = end(ctx, transport, header.payload_len);
        for _ in 0..=EXTENSIONS {
            if !matches!(
                protocol,
                IPPROTO_HOP_BY_HOP
                    | IPPROTO_ROUTING
                    | IPPROTO_FRAGMENT
                    | IPPROTO_AUTHENTICATION
                    | IPPROTO_DESTINATION_OPTIONS
            ) {
                return Ok(Some(Self { version: Version::V6, protocol, network, transport, end }));
            }
            if transport > MAX_HEADERS_LEN {
                return Err(Stop::NotParsed);
            }
            let extension: [u8; 4] = read(ctx, transport)?;
            let units = usize::from(extension[1]);
            transport += match protocol {
                IPPROTO_FRAGMENT => {
                    if u16::from_ne_bytes([extension[2], extension[3]]) & FRAGMENT_OFFSET != 0 {
                        return Ok(None);
                    }
                    8
                }
                // RFC 4302 section 2.2: in units of 4 bytes, less 2.
                IPPROTO_AUTHENTICATION => (units + 2) * 4,
                // Segments are left: the destination address is not the final one.
                IPPROTO_ROUTING if extension[3] != 0 => return Ok(None),
                _ => (units + 1) * 8,
            };
            protocol = extension[0];
        }
        Err(Stop::NotParsed)
    }

    #[inline(always)]
    fn transport_protocol(&self) -> Option<Protocol> {
        match self.protocol {
            IPPROTO_TCP if !connection::is_tcp_left_alone() => Some(Protocol::Tcp),
            IPPROTO_UDP => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// ICMP types: destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792). ICMPv6:
    /// those below 128 are errors (RFC 4443 section 2.1).
    #[inline(always)]
    fn is_icmp_error(&self, ctx: &TcContext) -> Result<bool, Stop> {
        let icmp = match self.version {
            Version::V4 => IPPROTO_ICMP,
            Version::V6 => IPPROTO_ICMPV6,
        };
        if self.protocol != icmp {
            return Ok(false);
        }
        if self.transport > MAX_HEADERS_LEN {
            return Err(Stop::NotParsed);
        }
        // Two bytes: of a read of one the verifier doesn't take the bounds check.
        let [kind, _code]: [u8; 2] = read(ctx, self.transport)?;
        Ok(match self.version {
            Version::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Version::V6 => kind < 128,
        })
    }

    /// The segment that it carries, of which the bytes up to `end` are there.
    #[inline(always)]
    fn segment(&self, ctx: &TcContext, protocol: Protocol, end: usize) -> Result<Segment, Stop> {
        let ports_end = self.transport + PORTS_LEN;
        if ports_end > self.end || ports_end > end || self.transport > MAX_HEADERS_LEN {
            return Err(Stop::NotParsed);
        }
        let [source_port, destination_port]: [u16; 2] = read(ctx, self.transport)?;
        Ok(Segment {
            protocol,
            source_port,
            destination_port,
            transport: self.transport,
            end,
            network: self.network,
            version: self.version,
        })
    }
}

/// Where a packet ends that says to have `len` bytes from `start`. 0 says that 16 bits don't hold the length: jumbograms
/// (RFC 2675), and the kernel's BIG TCP.
#[inline(always)]
fn end(ctx: &TcContext, start: usize, len: u16) -> usize {
    match u16::from_be(len) {
        0 => ctx.len() as usize,
        len => start + usize::from(len),
    }
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
            Version::V6 => read(ctx, self.network + in_ipv6).ok().map(Address::from_halves),
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
    /// At any address.
    #[repr(C, packed)]
    struct Unaligned<T>(T);

    at(ctx, offset).map(|value: &Unaligned<T>| value.0)
}

/// A packed header of plain integers at `offset`, which the caller has bounded.
#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Result<&T, Stop> {
    const { assert!(align_of::<T>() == 1) };
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(Stop::OutOfReach);
    }
    // SAFETY: the bytes lie within the packet, as just checked, and the verifier proves it again; any bytes are a T, at any address.
    Ok(unsafe { &*(start as *const T) })
}
