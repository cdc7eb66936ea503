//! What the kernel programs count. Each CPU counts by itself; a reader adds the CPUs up.

use core::ops::AddAssign;

/// Counters of one redirect rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleCounters {
    /// Packets whose destination port was changed from FROM to TO.
    pub ingress_packets: u64,
    /// Their bytes, link-layer header included.
    pub ingress_bytes: u64,
    /// Packets whose source port was changed from TO back to FROM.
    pub egress_packets: u64,
    /// Their bytes, link-layer header included.
    pub egress_bytes: u64,
    /// TCP connections begun: redirected segments with SYN and without ACK, so a repeated SYN counts again. Always 0 for
    /// UDP.
    pub connections: u64,
    /// Packets to TO from outside that were dropped under `--direct deny`.
    pub refused_direct: u64,
    /// ICMP errors that came in about a packet from FROM, and were handed on as about one from TO.
    pub ingress_errors: u64,
    /// ICMP errors that went out about a packet to TO, and were sent as about one to FROM.
    pub egress_errors: u64,
}

/// Counters of an attachment as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AttachmentCounters {
    /// Inbound packets that are cut short or malformed where a port or its checksum would be; they passed unchanged.
    pub ingress_not_parsed: u64,
    /// The same, outbound.
    pub egress_not_parsed: u64,
}

impl AddAssign for RuleCounters {
    fn add_assign(&mut self, other: Self) {
        self.ingress_packets += other.ingress_packets;
        self.ingress_bytes += other.ingress_bytes;
        self.egress_packets += other.egress_packets;
        self.egress_bytes += other.egress_bytes;
        self.connections += other.connections;
        self.refused_direct += other.refused_direct;
        self.ingress_errors += other.ingress_errors;
        self.egress_errors += other.egress_errors;
    }
}

impl AddAssign for AttachmentCounters {
    fn add_assign(&mut self, other: Self) {
        self.ingress_not_parsed += other.ingress_not_parsed;
        self.egress_not_parsed += other.egress_not_parsed;
    }
}
