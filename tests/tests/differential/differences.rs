//! What rprox does otherwise than the kernel's NAT, and why. ARCHITECTURE.md has the same list, which a test holds to this one.

use crate::host::RULES;
use crate::wire::{ACK, FIN, Packet, RST, SYN, Segment, TCP};

/// A known difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// Straight to TO.
    Direct,
    /// TCP flags that conntrack has no name for.
    Flags,
    /// A first fragment that ends before TCP's checksum.
    TinyFragment,
    /// IPv6 fragments behind destination options.
    FragmentHeader,
}

const URG: u8 = 0x20;
const DESTINATION_OPTIONS: u8 = 60;

impl Difference {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Flags, Self::TinyFragment, Self::FragmentHeader];

    /// What ARCHITECTURE.md calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "straight to TO",
            Self::Flags => "flags that make no sense",
            Self::TinyFragment => "a first fragment without TCP's checksum",
            Self::FragmentHeader => "IPv6 fragments behind destination options",
        }
    }

    /// The difference that is to be expected of a packet that belongs to nothing before it.
    pub(crate) fn expected(packet: &Packet) -> Option<Self> {
        let protocol = if packet.protocol() == TCP { "tcp" } else { "udp" };
        if packet.extensions.iter().any(|(kind, _)| *kind == DESTINATION_OPTIONS) && packet.frames().len() > 1
        {
            return Some(Self::FragmentHeader);
        }
        if matches!(packet.segment, Segment::Icmp { .. }) {
            return None;
        }
        let port = packet.host.port();
        if RULES.iter().any(|(_, to, of)| *of == protocol && *to == port) {
            return Some(Self::Direct);
        }
        let Segment::Tcp { flags, .. } = packet.segment else { return None };
        // Conntrack's own list: PSH, ECE and CWR go with all of these, URG with those that carry data.
        let named = [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
        if !named.contains(&(flags & (FIN | SYN | RST | ACK | URG))) {
            return Some(Self::Flags);
        }
        (packet.cuts.first().is_some_and(|cut| *cut < 18)).then_some(Self::TinyFragment)
    }
}

#[test]
fn architecture_md_lists_the_differences_that_the_tests_know() {
    let path = rprox_tests::programs::workspace().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let (_, section) = text.split_once("### Differences from the kernel's NAT").expect("the section");
    let section = section.split("\n#").next().expect("its text");
    let listed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .filter(|title| *title != "what comes in")
        .collect();
    assert_eq!(listed, Difference::ALL.map(Difference::title));
}
