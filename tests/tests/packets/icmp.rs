//! ICMP and `ICMPv6` errors about redirected packets, made from scratch.

use std::net::IpAddr;

use rprox_common::State;
use rprox_tests::checksum::checksum;

use crate::frame::{Fragment, Frame, Transport, ethernet};
use crate::kernel::{
    Direction::{self, Egress, Ingress},
    Kernel, Verdict,
};

const ROUTER_V4: &str = "203.0.113.1";
const ROUTER_V6: &str = "2001:db8:3::1";

/// Destination unreachable with code 4, "fragmentation needed" (RFC 1191), or packet too big (RFC 4443 section 3.2).
fn too_big(source: &str, destination: &str, about: &[u8]) -> Vec<u8> {
    let kind = if source.contains(':') { [2, 0] } else { [3, 4] };
    error(source, destination, kind, about)
}

fn error(source: &str, destination: &str, [kind, code]: [u8; 2], about: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x14];
    message.extend_from_slice(about);
    let len = u16::try_from(message.len()).expect("fits");
    let addresses: (IpAddr, IpAddr) =
        (source.parse().expect("an address"), destination.parse().expect("an address"));
    let packet = match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let [high, low] = (len + 20).to_be_bytes();
            let mut header = vec![0x45, 0xc0, high, low, 0, 0, 0, 0, 64, 1, 0, 0];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [header, message].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            let sum = checksum(&[&addresses, &len.to_be_bytes(), &[0, 58], &message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let [high, low] = len.to_be_bytes();
            let header = vec![0x60, 0, 0, 0, high, low, 58, 64];
            [header, addresses, message].concat()
        }
        _ => panic!("addresses of two families"),
    };
    ethernet(&[], if source.contains(':') { 0x86dd } else { 0x0800 }, &packet)
}

/// Asserts that an error about `before` comes through as one about `after`, however much of it the error carries beyond the
/// ports.
#[track_caller]
fn assert_error_translated(
    kernel: &mut Kernel,
    direction: Direction,
    ends: [&str; 2],
    before: &Frame,
    after: &Frame,
) {
    let transport = if before.source.is_ipv4() { 20 } else { 40 };
    let checksum = if matches!(before.transport, Transport::Tcp { .. }) { 16 } else { 6 };
    let (before, after) = (before.packet(), after.packet());
    for len in transport + 4..=before.len() {
        let mut about = after[..len].to_vec();
        // A checksum of which half is there stays as it is.
        if len == transport + checksum + 1 {
            about[len - 1] = before[len - 1];
        }
        let error = too_big(ends[0], ends[1], &before[..len]);
        let expected = too_big(ends[0], ends[1], &about);
        assert_eq!(kernel.run(direction, &error), Verdict::Next(expected), "{direction:?}, with {len} bytes");
    }
}

/// What this host sent, as it was on the wire: from FROM.
fn sent() -> [(Frame, [&'static str; 2]); 4] {
    let v4 = [ROUTER_V4, "192.0.2.1"];
    let v6 = [ROUTER_V6, "2001:db8::1"];
    [
        (Frame::tcp("192.0.2.1:443", "198.51.100.7:40000"), v4),
        (Frame::udp("192.0.2.1:443", "198.51.100.7:40000"), v4),
        (Frame::tcp("[2001:db8::1]:443", "[2001:db8:ffff::7]:40000"), v6),
        (Frame::udp("[2001:db8::1]:443", "[2001:db8:ffff::7]:40000"), v6),
    ]
}

#[test]
fn errors_about_answers_reach_the_socket_on_to() {
    let mut kernel = Kernel::new();
    for (sent, ends) in sent() {
        assert_error_translated(&mut kernel, Ingress, ends, &sent, &sent.with_source_port(8443));
    }
    assert_eq!(kernel.counters().ingress_not_parsed, 0);
    assert!(kernel.rule_counters(1).ingress_errors > 0);
}

#[test]
fn errors_that_this_host_sends_speak_of_from() {
    let mut kernel = Kernel::new();
    for (sent, [router, host]) in sent() {
        let received = sent.answer().with_destination_port(8443);
        assert_error_translated(
            &mut kernel,
            Egress,
            [host, router],
            &received,
            &received.with_destination_port(443),
        );
    }
    assert!(kernel.rule_counters(2).egress_errors > 0);
}

#[test]
fn all_kinds_of_errors_and_no_other_message() {
    let mut kernel = Kernel::new();
    for (sent, [router, host]) in sent() {
        let kinds: &[u8] = if host.contains(':') { &[1, 2, 3, 4, 100] } else { &[3, 4, 5, 11, 12] };
        for kind in 0..=u8::MAX {
            let frame = |about: &Frame| error(router, host, [kind, 0], &about.packet());
            let expected = if kinds.contains(&kind) || host.contains(':') && kind < 128 {
                frame(&sent.with_source_port(8443))
            } else {
                frame(&sent)
            };
            assert_eq!(kernel.run(Ingress, &frame(&sent)), Verdict::Next(expected), "type {kind}");
        }
    }
}

#[test]
fn errors_about_other_traffic_pass_unchanged() {
    let mut kernel = Kernel::new();
    let abouts = [
        // Somebody else's answer, this host's request, this host's answer from another port.
        Frame::tcp("203.0.113.9:443", "198.51.100.7:40000"),
        Frame::tcp("192.0.2.1:40000", "198.51.100.7:443"),
        Frame::tcp("192.0.2.1:444", "198.51.100.7:40000"),
        // A fragment after the first.
        Frame::udp("192.0.2.1:443", "198.51.100.7:40000")
            .with(|frame| frame.fragment = Some(Fragment { offset: 8, len: 24, more: true })),
    ];
    for about in &abouts {
        let error = too_big(ROUTER_V4, "192.0.2.1", &about.packet());
        assert_eq!(kernel.run(Ingress, &error), Verdict::Next(error.clone()));
        let error = too_big("192.0.2.1", ROUTER_V4, &about.answer().packet());
        assert_eq!(kernel.run(Egress, &error), Verdict::Next(error.clone()));
    }
    assert_eq!(kernel.counters().ingress_not_parsed, 0);
}

#[test]
fn errors_without_ports_are_not_parsed() {
    let mut kernel = Kernel::new();
    for (sent, [router, host]) in sent() {
        let packet = sent.packet();
        let headers = if host.contains(':') { 40 } else { 20 };
        for len in 0..headers + 4 {
            let error = too_big(router, host, &packet[..len]);
            assert_eq!(kernel.run(Ingress, &error), Verdict::Next(error.clone()), "{len} bytes");
        }
    }
    assert_eq!(kernel.counters().ingress_not_parsed, 2 * 24 + 2 * 44);
}

#[test]
fn errors_about_direct_flows_pass_unchanged_when_allowed() {
    let mut kernel = Kernel::new();
    kernel.set_state(State::new(0, true));
    for (sent, [router, host]) in sent() {
        let direct = sent.answer().with_destination_port(8443);
        kernel.run(Ingress, &direct.bytes());
        let outbound = too_big(host, router, &direct.packet());
        assert_eq!(kernel.run(Egress, &outbound), Verdict::Next(outbound.clone()));
        let inbound = too_big(router, host, &direct.answer().packet());
        assert_eq!(kernel.run(Ingress, &inbound), Verdict::Next(inbound.clone()));
    }
}
