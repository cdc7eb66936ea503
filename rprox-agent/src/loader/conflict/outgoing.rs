//! Ports of rules that the kernel gives to outgoing connections: now and then a TO port is taken when its listener starts, and what
//! answers a connection from a FROM port is redirected.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;

use crate::loader::mode::Mode;
use crate::loader::rule::Rule;

/// The ports that outgoing connections get.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Those of them that none gets.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Which side of rules a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// FROM, where packets are changed: an established connection is told from a new one by nothing.
    From,
    /// TO.
    To,
}

/// What to say of those of `ports` that outgoing connections may get; `None` if there are none.
#[must_use]
pub fn warning(ports: &BTreeSet<u16>, side: Side) -> Option<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    say(ports, side, &read(RANGE), &read(RESERVED))
}

/// The FROM ports of `rules` for which packets are changed under `mode`.
#[must_use]
pub fn changed(rules: &[Rule], mode: Mode) -> BTreeSet<u16> {
    rules.iter().filter(|rule| mode.counts_packets(rule.protocol)).map(|rule| rule.from).collect()
}

fn say(ports: &BTreeSet<u16>, side: Side, range: &str, reserved: &str) -> Option<String> {
    let range: Vec<u16> = range.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let [low, high] = range[..] else { return None };
    let reserved = reserved.trim();
    let kept: Vec<RangeInclusive<u16>> = reserved.split(',').filter_map(parse).collect();
    let loose: Vec<String> = ports
        .iter()
        .filter(|port| (low..=high).contains(port) && !kept.iter().any(|kept| kept.contains(port)))
        .map(ToString::to_string)
        .collect();
    if loose.is_empty() {
        return None;
    }
    let loose = loose.join(",");
    let comma = if reserved.is_empty() { "" } else { "," };
    let (so, name) = match side {
        Side::From => ("whose answers would be redirected", "FROM"),
        Side::To => (
            "or to whoever asks for any port, which the port guard doesn't see, and the owner can't listen there meanwhile",
            "TO",
        ),
    };
    Some(format!(
        "the kernel may give port {loose} to an outgoing connection (net.ipv4.ip_local_port_range is {low} to {high}), {so}: choose a \
         {name} port below {low}, or run `sysctl -w net.ipv4.ip_local_reserved_ports={reserved}{comma}{loose}`"
    ))
}

/// Reads a port, or a range of them.
fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some(low.parse().ok()?..=high.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_in_the_range_that_are_not_reserved_are_told() {
        let say = |ports: &[u16], reserved: &str| {
            say(&ports.iter().copied().collect(), Side::To, "32768\t60999\n", reserved)
        };
        assert_eq!(say(&[8080, 32767, 61000], ""), None);
        assert_eq!(say(&[40_080, 40_443], "40000-40100,40443\n"), None);
        let said = say(&[8080, 40_080, 40_443], "40443\n").unwrap();
        assert!(said.contains("give port 40080 to") && said.ends_with("ports=40443,40080`"), "{said}");
        let said = say(&[40_080, 40_443], "\n").unwrap();
        assert!(said.ends_with("ports=40080,40443`"), "{said}");
        assert_eq!(super::say(&BTreeSet::from([40_080]), Side::To, "", ""), None);
    }
}
