//! Processor time of the kernel programs for a packet, by `BPF_PROG_TEST_RUN`, beside that of a program that does nothing.
//!
//! Prints a line for each round and case: `ROUND CASE NANOSECONDS`. `cargo xtask bench packets` runs it.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where its set-up fails")]

mod clock;
mod empty;
#[path = "../../tests/packets/frame.rs"]
#[allow(dead_code, reason = "shared with the tests, which need more of it")]
mod frame;
#[path = "../../tests/packets/kernel.rs"]
#[allow(dead_code, reason = "shared with the tests, which need more of it")]
mod kernel;

use rprox_common::{PortKind, Protocol};

use self::clock::nanoseconds_each;
use self::empty::Empty;
use self::frame::Frame;
use self::kernel::{Direction, Kernel};

/// Runs of one call: enough that what the call itself costs is nothing beside them.
const REPEAT: u32 = 200_000;
/// Calls for one figure, of which the least counts: whatever else the machine does only ever adds.
const CALLS: usize = 5;

fn main() {
    // Cargo passes `--bench`.
    let rounds: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(7);
    let mut kernel = Kernel::new();
    // A packet's port goes to and fro between two rules, so that every repetition has one to change.
    kernel.write_entries(PortKind::From, &[(80, 8080, Protocol::Tcp), (8080, 80, Protocol::Tcp)]);
    kernel.write_entries(PortKind::From, &[(443, 8443, Protocol::Udp), (8443, 443, Protocol::Udp)]);
    kernel.write_entries(PortKind::To, &[(81, 8081, Protocol::Tcp), (8081, 81, Protocol::Tcp)]);
    let empty = Empty::load().unwrap();

    let v4 = Frame::tcp("198.51.100.10:50000", "192.0.2.1:80");
    let v6 = Frame::tcp("[2001:db8:51::10]:50000", "[2001:db8::1]:80");
    let udp = Frame::udp("198.51.100.10:50000", "192.0.2.1:443");
    let other = v4.with_destination_port(22);
    let forwarded = Frame::tcp("198.51.100.10:50000", "203.0.113.1:80");
    let forwarded_v6 = Frame::tcp("[2001:db8:51::10]:50000", "[2001:db8:77::1]:80");
    let cases = [
        ("translated, TCP over IPv4", Direction::Ingress, v4.bytes()),
        ("translated, TCP over IPv6", Direction::Ingress, v6.bytes()),
        ("translated, UDP over IPv4", Direction::Ingress, udp.bytes()),
        ("translated, outgoing", Direction::Egress, v4.with_destination_port(8081).answer().bytes()),
        ("translated, outgoing IPv6", Direction::Egress, v6.with_destination_port(8081).answer().bytes()),
        ("another port", Direction::Ingress, other.bytes()),
        ("another port, IPv6", Direction::Ingress, v6.with_destination_port(22).bytes()),
        ("another port, outgoing", Direction::Egress, other.answer().bytes()),
        ("forwarded", Direction::Ingress, forwarded.bytes()),
        ("forwarded, IPv6", Direction::Ingress, forwarded_v6.bytes()),
        ("forwarded, outgoing", Direction::Egress, forwarded.with_destination_port(8081).answer().bytes()),
    ];
    for round in 0..=rounds {
        let report = |case: &str, nanoseconds: f64| {
            // Caches are cold in the first.
            if round > 0 {
                println!("{round} {case}\t{nanoseconds:.2}");
            }
        };
        let frame = cases[0].2.clone();
        report("empty program", nanoseconds_each(CALLS, REPEAT, || empty.repeat(&frame, REPEAT).unwrap()));
        for (case, direction, frame) in &cases {
            report(case, nanoseconds_each(CALLS, REPEAT, || kernel.repeat(*direction, frame, REPEAT)));
        }
    }
}
