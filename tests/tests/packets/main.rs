//! The kernel programs on single packets, each compared byte for byte with one made from scratch.
//!
//! Needs root, to load programs.

mod frame;
mod icmp;
mod kernel;
mod wire;

use std::net::Ipv4Addr;

use frame::{ACK, Fragment, Frame, SYN, Transport};
use kernel::{
    Direction::{Egress, Ingress},
    Kernel, RULES, Verdict,
};
use rprox_common::{Address, AttachmentCounters, Protocol, RuleCounters, State};

const CLIENT_V4: &str = "198.51.100.7:40000";
const CLIENT_V6: &str = "[2001:db8:ffff::7]:40000";

/// Asserts that the frame comes in with its destination port changed to `to`, and that the answer to it goes out with its
/// source port changed back.
#[track_caller]
fn assert_translated(kernel: &mut Kernel, inbound: &Frame, to: u16) {
    let from = inbound.destination.port();
    assert_eq!(
        kernel.run(Ingress, &inbound.bytes()),
        Verdict::Next(inbound.with_destination_port(to).bytes()),
        "ingress"
    );
    let outbound = inbound.answer().with_source_port(to);
    assert_eq!(
        kernel.run(Egress, &outbound.bytes()),
        Verdict::Next(outbound.with_source_port(from).bytes()),
        "egress"
    );
}

/// Asserts that the frame passes both ways as it is.
#[track_caller]
fn assert_unchanged(kernel: &mut Kernel, frame: &[u8]) {
    assert_eq!(kernel.run(Ingress, frame), Verdict::Next(frame.to_vec()), "ingress");
    assert_eq!(kernel.run(Egress, frame), Verdict::Next(frame.to_vec()), "egress");
}

/// Frames to FROM in both families, for tests of what holds for both.
fn inbound() -> [Frame; 2] {
    [Frame::tcp(CLIENT_V4, "192.0.2.1:80"), Frame::tcp(CLIENT_V6, "[2001:db8::1]:80")]
}

#[test]
fn tcp_and_udp_are_translated_in_both_families() {
    let mut kernel = Kernel::new();
    for frame in inbound() {
        assert_translated(&mut kernel, &frame, 8080);
        assert_translated(&mut kernel, &frame.with_destination_port(443), 8443);
    }
    assert_translated(&mut kernel, &Frame::udp(CLIENT_V4, "192.0.2.1:443"), 8443);
    assert_translated(&mut kernel, &Frame::udp(CLIENT_V6, "[2001:db8::1]:443"), 8443);
}

#[test]
fn every_port_rule_leaves_other_ports_and_protocols_alone() {
    let mut kernel = Kernel::new();
    for port in [0, 1, 79, 81, 442, 444, 8079, 8081, 65_535] {
        for frame in inbound() {
            assert_unchanged(&mut kernel, &frame.with_destination_port(port).bytes());
        }
    }
    // 80 is a rule for TCP only.
    assert_unchanged(&mut kernel, &Frame::udp(CLIENT_V4, "192.0.2.1:80").bytes());
    assert_unchanged(&mut kernel, &Frame::udp(CLIENT_V6, "[2001:db8::1]:80").bytes());
}

#[test]
fn traffic_to_and_from_other_hosts_passes_unchanged() {
    let mut kernel = Kernel::new();
    for other in ["203.0.113.9:80", "203.0.113.9:443", "203.0.113.9:8080"] {
        assert_unchanged(&mut kernel, &Frame::tcp(CLIENT_V4, other).bytes());
        assert_unchanged(&mut kernel, &Frame::tcp(other, CLIENT_V4).bytes());
    }
    for other in ["[2001:db8:2::9]:80", "[2001:db8:2::9]:443", "[2001:db8:2::9]:8080"] {
        assert_unchanged(&mut kernel, &Frame::tcp(CLIENT_V6, other).bytes());
        assert_unchanged(&mut kernel, &Frame::tcp(other, CLIENT_V6).bytes());
    }
    // This host as a client of somebody else's ports.
    assert_unchanged(&mut kernel, &Frame::tcp("192.0.2.1:40000", "203.0.113.9:80").bytes());
    assert_unchanged(&mut kernel, &Frame::tcp("203.0.113.9:8080", "192.0.2.1:40000").bytes());
}

#[test]
fn addresses_that_share_a_place_in_the_table_are_told_apart() {
    let mut kernel = Kernel::new();
    let place = |number: u32| Address::from(Ipv4Addr::from(number)).slot();
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    let mut others = (first + 1..).filter(|number| place(*number) == place(first));
    let [second, foreign] = [others.next().unwrap(), others.next().unwrap()].map(Ipv4Addr::from);
    for own in [Ipv4Addr::from(first), second] {
        kernel.add_address(own.into());
    }
    for own in [Ipv4Addr::from(first), second] {
        assert_translated(&mut kernel, &Frame::tcp(CLIENT_V4, &format!("{own}:80")), 8080);
    }
    assert_unchanged(&mut kernel, &Frame::tcp(CLIENT_V4, &format!("{foreign}:80")).bytes());
}

#[test]
fn ipv4_options_of_every_length() {
    let mut kernel = Kernel::new();
    for words in 1..=10 {
        let frame = Frame::tcp(CLIENT_V4, "192.0.2.1:80").with(|frame| frame.options = vec![1; words * 4]);
        assert_translated(&mut kernel, &frame, 8080);
    }
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let padded = |kind, units: u8| (kind, [vec![0, units], vec![0; usize::from(units) * 8 + 6]].concat());
    let authentication = (51, [vec![0, 4], vec![0; 22]].concat());
    let mut kernel = Kernel::new();
    let lists = [
        vec![padded(0, 0)],
        vec![padded(60, 3)],
        vec![padded(43, 2)],
        vec![authentication.clone()],
        vec![padded(0, 1), padded(60, 0), padded(43, 0), authentication, padded(60, 2)],
        vec![padded(60, 0); 8],
    ];
    for extensions in lists {
        for frame in [Frame::tcp(CLIENT_V6, "[2001:db8::1]:443"), Frame::udp(CLIENT_V6, "[2001:db8::1]:443")]
        {
            assert_translated(
                &mut kernel,
                &frame.with(|frame| frame.extensions.clone_from(&extensions)),
                8443,
            );
        }
    }
    assert_eq!(kernel.counters(), AttachmentCounters::default());
}

#[test]
fn ipv6_headers_without_ports_for_this_host_pass_unchanged() {
    let mut kernel = Kernel::new();
    let frame = Frame::tcp(CLIENT_V6, "[2001:db8::1]:80");
    // A routing header with a segment left: the destination is not the last one.
    let routed = frame.clone().with(|frame| frame.extensions = vec![(43, vec![0, 0, 4, 1, 0, 0, 0, 0])]);
    assert_unchanged(&mut kernel, &routed.bytes());
    // No next header, and one that nobody knows.
    for kind in [59, 253] {
        let unknown = frame.clone().with(|frame| frame.extensions = vec![(kind, vec![0; 8])]);
        assert_unchanged(&mut kernel, &unknown.bytes());
    }
    assert_eq!(kernel.counters(), AttachmentCounters::default());
    // More extension headers than are walked, and longer ones: not parsed.
    let many = frame.clone().with(|frame| frame.extensions = vec![(60, vec![0; 8]); 9]);
    assert_unchanged(&mut kernel, &many.bytes());
    let long = frame.with(|frame| frame.extensions = vec![(60, [vec![0, 62], vec![0; 502]].concat())]);
    assert_unchanged(&mut kernel, &long.bytes());
    assert_eq!(kernel.counters(), AttachmentCounters { ingress_not_parsed: 2, egress_not_parsed: 2 });
}

#[test]
fn of_a_fragmented_datagram_only_the_first_fragment_changes() {
    let mut kernel = Kernel::new();
    for whole in [Frame::udp(CLIENT_V4, "192.0.2.1:443"), Frame::udp(CLIENT_V6, "[2001:db8::1]:443")] {
        let whole = whole.with(|frame| frame.payload = (0..=255).cycle().take(1_600).collect());
        let first = |frame: &mut Frame| {
            frame.fragment = Some(Fragment { offset: 0, len: 808, more: true });
        };
        assert_translated(&mut kernel, &whole.clone().with(first), 8443);
        for (offset, more) in [(808, true), (1_600, false)] {
            let later = whole.clone().with(|frame| {
                frame.fragment = Some(Fragment { offset, len: 792, more });
                // What stands where ports would be looks like a rule's.
                frame.payload[offset - 8..offset - 4].copy_from_slice(&[0x01, 0xbb, 0x01, 0xbb]);
            });
            assert_unchanged(&mut kernel, &later.bytes());
        }
    }
    assert_eq!(kernel.counters(), AttachmentCounters::default());
}

#[test]
fn a_first_fragment_too_short_for_its_checksum_passes_unchanged() {
    let mut kernel = Kernel::new();
    for frame in inbound() {
        let tiny = frame.with(|frame| frame.fragment = Some(Fragment { offset: 0, len: 8, more: true }));
        assert_eq!(kernel.run(Ingress, &tiny.bytes()), Verdict::Next(tiny.bytes()));
        // Its port is there to be read, though, so it doesn't get around the refusal.
        assert_eq!(kernel.run(Ingress, &tiny.with_destination_port(8080).bytes()), Verdict::Drop);
    }
    assert_eq!(kernel.counters().ingress_not_parsed, 2);
}

#[test]
fn vlan_tags_in_band() {
    let mut kernel = Kernel::new();
    for tags in [vec![0x8100], vec![0x88a8], vec![0x88a8, 0x8100], vec![0x8100, 0x8100]] {
        for frame in inbound() {
            assert_translated(&mut kernel, &frame.with(|frame| frame.vlan_tags.clone_from(&tags)), 8080);
        }
    }
    for frame in inbound() {
        let three = frame.with(|frame| frame.vlan_tags = vec![0x88a8, 0x8100, 0x8100]);
        assert_unchanged(&mut kernel, &three.bytes());
    }
}

#[test]
fn udp_without_checksum_stays_without_and_a_sum_of_zero_is_sent_as_ones() {
    let mut kernel = Kernel::new();
    for (client, server) in [(CLIENT_V4, "192.0.2.1:443"), (CLIENT_V6, "[2001:db8::1]:443")] {
        assert_translated(&mut kernel, &Frame::new(Transport::UdpWithoutChecksum, client, server), 8443);
        // Every value of one payload word, so that the sum comes out as zero once before and once after.
        for word in 0..=u16::MAX {
            let frame = Frame::udp(client, server).with(|frame| frame.payload = word.to_be_bytes().to_vec());
            assert_eq!(
                kernel.run(Ingress, &frame.bytes()),
                Verdict::Next(frame.with_destination_port(8443).bytes()),
                "{word}"
            );
        }
    }
}

#[test]
fn frames_cut_short_at_every_byte_pass_unchanged() {
    let mut kernel = Kernel::new();
    let udp = Frame::udp(CLIENT_V4, "192.0.2.1:443");
    for frame in inbound().into_iter().chain([udp]) {
        let whole = frame.bytes();
        // BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header and an IP header.
        let ip = if frame.source.is_ipv4() { 20 } else { 40 };
        for len in 14 + ip..whole.len() {
            assert_unchanged(&mut kernel, &whole[..len]);
        }
    }
}

#[test]
fn lengths_that_do_not_fit_the_headers_are_not_parsed() {
    let mut kernel = Kernel::new();
    let whole = Frame::tcp(CLIENT_V4, "192.0.2.1:80").bytes();
    let with = |offset: usize, bytes: &[u8]| {
        let mut frame = whole.clone();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let malformed = [
        with(14, &[0x44]),           // header length below 20
        with(14, &[0x4f, 0, 0, 62]), // header length beyond the total length
        with(14, &[0x65]),           // version 6 under IPv4's EtherType
        with(16, &[0, 22]),          // total length ends within the ports
        with(16, &[0xff, 0xff]),     // total length beyond the frame
    ];
    for frame in &malformed {
        assert_unchanged(&mut kernel, frame);
    }
    let expected = malformed.len() as u64;
    assert_eq!(
        kernel.counters(),
        AttachmentCounters { ingress_not_parsed: expected, egress_not_parsed: expected }
    );
}

#[test]
fn bytes_after_the_packet_are_left_alone() {
    let mut kernel = Kernel::new();
    for frame in inbound() {
        let pad = |frame: &Frame| [frame.bytes(), vec![0xaa; 11]].concat();
        assert_eq!(kernel.run(Ingress, &pad(&frame)), Verdict::Next(pad(&frame.with_destination_port(8080))));
    }
}

#[test]
fn what_is_not_ip_passes_unchanged() {
    let mut kernel = Kernel::new();
    let mut arp = vec![0xff; 12];
    arp.extend_from_slice(&[0x08, 0x06]);
    arp.extend_from_slice(&[0; 46]);
    assert_unchanged(&mut kernel, &arp);
    let mut icmp = Frame::tcp(CLIENT_V4, "192.0.2.1:80").bytes();
    icmp[23] = 1;
    assert_unchanged(&mut kernel, &icmp);
    assert_eq!(kernel.counters(), AttachmentCounters::default());
}

#[test]
fn direct_connections_are_refused_by_default() {
    let mut kernel = Kernel::new();
    for frame in inbound() {
        assert_eq!(kernel.run(Ingress, &frame.with_destination_port(8080).bytes()), Verdict::Drop);
        assert_eq!(kernel.run(Ingress, &frame.with_destination_port(8443).bytes()), Verdict::Drop);
    }
    assert_eq!(kernel.rule_counters(0).refused_direct, 2);
    assert_eq!(kernel.rule_counters(1).refused_direct, 2);
    assert_eq!(kernel.rule_counters(2).refused_direct, 0);
}

#[test]
fn direct_flows_are_told_from_redirected_ones_when_allowed() {
    let mut kernel = Kernel::new();
    kernel.set_state(State::new(0, true));
    for redirected in inbound() {
        let direct = redirected.with_destination_port(8080);
        let answer = direct.answer();
        assert_unchanged(&mut kernel, &direct.bytes());
        assert_eq!(
            kernel.run(Egress, &answer.bytes()),
            Verdict::Next(answer.bytes()),
            "the direct flow's answer"
        );
        // Another client's redirected flow beside it.
        assert_translated(&mut kernel, &redirected.with_source_port(40_001), 8080);
        // The same client's port, in a redirected flow later.
        assert_translated(&mut kernel, &redirected, 8080);
    }
}

#[test]
fn a_generation_comes_into_force_whole() {
    let mut kernel = Kernel::new();
    kernel.write_rules(1, &[(80, 9090, Protocol::Tcp)]);
    let [frame, _] = inbound();
    assert_translated(&mut kernel, &frame, 8080);
    kernel.set_state(State::new(1, false));
    assert_translated(&mut kernel, &frame, 9090);
    assert_unchanged(&mut kernel, &frame.with_destination_port(443).bytes());
    assert_unchanged(&mut kernel, &frame.with_destination_port(8080).bytes());
    kernel.set_state(State::new(0, false));
    assert_translated(&mut kernel, &frame, 8080);
}

#[test]
fn rules_count_packets_bytes_and_connections() {
    let mut kernel = Kernel::new();
    let [frame, _] = inbound();
    for flags in [SYN, SYN, ACK, SYN | ACK] {
        let frame = frame.clone().with(|frame| frame.transport = Transport::Tcp { flags });
        kernel.run(Ingress, &frame.bytes());
    }
    let answer = Frame::tcp("192.0.2.1:8080", CLIENT_V4);
    kernel.run(Egress, &answer.bytes());
    let len = frame.bytes().len() as u64;
    assert_eq!(
        kernel.rule_counters(0),
        RuleCounters {
            ingress_packets: 4,
            ingress_bytes: 4 * len,
            egress_packets: 1,
            egress_bytes: len,
            connections: 2,
            ..RuleCounters::default()
        }
    );
    for other in 1..RULES.len() {
        assert_eq!(kernel.rule_counters(u32::try_from(other).unwrap()), RuleCounters::default());
    }
}

/// What the verifier may walk through for each program. Its own limit is a million; what grows towards that loads slowly, and is
/// refused by an older kernel first.
const VERIFICATION_BUDGET: u32 = 400_000;

#[test]
fn programs_stay_within_their_verification_budget() {
    let mut kernel = Kernel::new();
    for direction in [Ingress, Egress] {
        let verified = kernel.verified_instructions(direction);
        println!("{direction:?}: {verified} instructions verified, of {VERIFICATION_BUDGET} allowed");
        assert!(verified <= VERIFICATION_BUDGET, "{direction:?}: {verified} instructions");
    }
}
