//! The same packets and conversations through iptables' REDIRECT and through rprox: what comes back must be the same, but for the
//! differences that ARCHITECTURE.md lists.
//!
//! Needs root, iptables, and /dev/net/tun. `RPROX_SEED` sets the seed that a failed run has printed.

mod conversations;
mod differences;
mod generator;
mod host;
mod wire;

use std::collections::BTreeMap;

use differences::Difference;
use generator::Generator;
use host::{LITTLE, Outcome, PATIENCE, Pair};
use wire::{Packet, RST, SYN, Segment};

const FEW: usize = 600;
const MANY: usize = 200_000;
/// So many unexpected differences tell what is wrong.
const ENOUGH: usize = 12;

/// Sends the packet to both hosts, and takes back a connection that it opened.
fn exchange(pair: &mut Pair, packet: &Packet) -> [Outcome; 2] {
    let frames = packet.frames();
    let mut initial = [None; 2];
    let client = packet.client;
    let patience = if Difference::expected(packet).is_some() { LITTLE } else { PATIENCE };
    let outcomes = pair.compare(client, patience, 0, &mut initial, |host, _| host.send_all(&frames));
    if let Segment::Tcp { sequence, flags, .. } = packet.segment
        && flags & SYN != 0
        && initial.iter().any(Option::is_some)
    {
        let length = u32::try_from(packet.payload.len()).expect("short");
        for end in [sequence.wrapping_add(1), sequence.wrapping_add(1).wrapping_add(length)] {
            let reset = Packet::tcp(packet.client, packet.host, end, 0, RST).frames();
            let after = pair.compare(client, PATIENCE, 0, &mut initial, |host, _| host.send(&reset[0]));
            assert_eq!(after[0], after[1], "reset after {packet:?}");
        }
    }
    outcomes
}

#[test]
fn the_same_packets_get_the_same_answers() {
    get_the_same_answers("rewrite");
}

#[test]
fn steered_packets_get_the_same_answers() {
    get_the_same_answers("steer");
}

fn get_the_same_answers(mode: &'static str) {
    let mut generator = Generator::new("packets");
    let mut pair = Pair::new(mode);
    let count = if rprox_tests::long::is_asked_for() { MANY } else { FEW };
    let mut seen: BTreeMap<Difference, usize> = BTreeMap::new();
    let mut unexpected = Vec::new();
    let (mut answered, mut delivered) = (0, 0);
    for number in 0..count {
        let packet = generator.packet();
        let outcomes = exchange(&mut pair, &packet);
        answered += usize::from(!outcomes[1].answers.is_empty());
        delivered += usize::from(!outcomes[1].datagrams.is_empty());
        let unsound = outcomes.iter().flat_map(|outcome| &outcome.answers).find(|answer| !answer.sound);
        assert!(unsound.is_none(), "packet {number}, {packet:?}: a wrong checksum in {unsound:?}");
        if outcomes[0] != outcomes[1] {
            match Difference::expected(&packet) {
                Some(difference) => *seen.entry(difference).or_default() += 1,
                None => unexpected.push(format!("packet {number}, {packet:?}\n    {outcomes:?}")),
            }
            if unexpected.len() >= ENOUGH {
                break;
            }
        }
    }
    println!(
        "{count} packets, {answered} answered, {delivered} delivered to a service; known differences: {seen:?}"
    );
    let by = [pair.hosts[0].by(), pair.hosts[1].by()];
    assert!(
        unexpected.is_empty(),
        "differences between {by:?} that nobody knows of:\n{}",
        unexpected.join("\n")
    );
    assert!(answered > count / 4 && delivered > count / 20, "the hosts answer: {answered}, {delivered}");
}
