//! The kernel programs on devices, for what `BPF_PROG_TEST_RUN` can't show: tags that the kernel has taken off the frame, frames
//! shorter than an IP header, and devices without a link-layer header.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use rprox_tests::netns::Netns;
use rprox_tests::wait;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::{CLIENT_V4, CLIENT_V6, inbound};

const DEADLINE: Duration = Duration::from_secs(5);

/// A device of which this test is the other end.
fn device(netns: &Netns, name: &str, layer: Layer) -> SyncDevice {
    netns.sysctl("net/ipv6/conf/default/router_solicitations", "0").expect("a parameter");
    let device = netns
        .enter(|| DeviceBuilder::new().name(name).layer(layer).build_sync())
        .expect("enter the namespace")
        .expect("this test makes tun devices, so it needs root and /dev/net/tun");
    device.set_nonblocking(true).expect("a descriptor");
    device
}

/// Waits for what the device sends that begins with `prefix`: the kernel may send of its own accord, too.
#[track_caller]
fn receive(device: &SyncDevice, prefix: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    wait::until(DEADLINE, "a packet to come out of the device", || match device.recv(&mut buffer) {
        Ok(len) => buffer[..len].starts_with(prefix).then(|| buffer[..len].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("read from the device: {error}"),
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// A bridge between two devices: frames go in at the first, where the programs are attached, and come out at the second.
struct Bridge {
    inside: SyncDevice,
    outside: SyncDevice,
    /// Dropped last.
    _netns: Netns,
}

impl Bridge {
    fn new(kernel: &mut Kernel) -> Self {
        let netns = Netns::new("bridge").expect("this test makes network namespaces, so it needs root");
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1").expect("a parameter");
        let inside = device(&netns, "inside", Layer::L2);
        let outside = device(&netns, "outside", Layer::L2);
        netns.ip("link add bridge type bridge forward_delay 0 mcast_snooping 0").expect("a bridge");
        for port in ["inside", "outside"] {
            netns.ip(&format!("link set {port} master bridge up")).expect("a bridge port");
        }
        netns.ip("link set bridge up").expect("the bridge goes up");
        netns.enter(|| kernel.attach("inside")).expect("enter the namespace");
        Self { inside, outside, _netns: netns }
    }

    #[track_caller]
    fn assert_passes(&self, sent: &[u8], expected: &[u8]) {
        self.inside.send(sent).expect("the device takes a frame");
        assert_eq!(receive(&self.outside, &sent[..12]), expected);
    }
}

#[test]
fn vlan_tags_that_the_kernel_takes_off() {
    let mut kernel = Kernel::new();
    let bridge = Bridge::new(&mut kernel);
    for tags in [vec![], vec![0x8100], vec![0x88a8], vec![0x88a8, 0x8100], vec![0x88a8, 0x8100, 0x8100]] {
        for frame in inbound() {
            let frame = frame.with(|frame| frame.vlan_tags.clone_from(&tags));
            bridge.assert_passes(&frame.bytes(), &frame.with_destination_port(8080).bytes());
        }
    }
    assert_eq!(kernel.rule_counters(0).ingress_packets, 10);
}

#[test]
fn frames_cut_short_within_the_ip_header_are_not_parsed() {
    let mut kernel = Kernel::new();
    let bridge = Bridge::new(&mut kernel);
    let mut expected = 0;
    for frame in inbound() {
        let ip = if frame.source.is_ipv4() { 20 } else { 40 };
        for len in 14..14 + ip {
            // The bridge gives up on such a frame; what the program made of it shows in its counter.
            bridge.inside.send(&frame.bytes()[..len]).expect("the device takes a frame");
            expected += 1;
        }
    }
    wait::until(DEADLINE, "every frame to be counted", || {
        (kernel.counters().ingress_not_parsed == expected).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", kernel.counters()));
}

#[test]
fn a_device_without_a_link_layer_header() {
    let mut kernel = Kernel::with_link_header(0);
    let netns = Netns::new("tun").expect("this test makes network namespaces, so it needs root");
    let tun = device(&netns, "tun", Layer::L3);
    for arguments in [
        "addr add 192.0.2.1/24 dev tun",
        "addr add 2001:db8::1/64 dev tun nodad",
        "link set tun up",
        "route add default dev tun",
        "-6 route add default dev tun",
    ] {
        netns.ip(arguments).expect("the device takes an address");
    }
    netns.enter(|| kernel.attach("tun")).expect("enter the namespace");
    for (client, server, listener) in
        [(CLIENT_V4, "192.0.2.1:443", "0.0.0.0:8443"), (CLIENT_V6, "[2001:db8::1]:443", "[::]:8443")]
    {
        let service = netns.enter(|| UdpSocket::bind(listener)).expect("enter").expect("a socket");
        service.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let request = Frame::udp(client, server);
        tun.send(&request.packet()).expect("the device takes a packet");
        let mut payload = [0; 1_500];
        let (len, peer) = service.recv_from(&mut payload).expect("the request comes to the socket on TO");
        assert_eq!(payload[..len], request.payload);
        assert_eq!(peer, request.source);
        service.send_to(&payload[..len], peer).expect("an answer");
        let answer = receive(&tun, &request.answer().packet()[..1]);
        let transport = if peer.is_ipv4() { 20 } else { 40 };
        assert_eq!(answer[transport..], request.answer().packet()[transport..]);
    }
    assert_eq!(kernel.counters().ingress_not_parsed, 0);
}
