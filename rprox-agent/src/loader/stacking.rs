//! Interfaces on top of each other: a VLAN on its device, a bridge or bond on its ports.
//!
//! A packet for the upper one passes the programs of both. The lower one's would change its port to TO, and the upper one's would
//! then take it for a direct connection and refuse it.

#![forbid(unsafe_code)]

use thiserror::Error;

use super::asked;
use super::config::Settings;
use super::netlink::Device;
use super::pins::Pins;
use super::rule::{Rule, protocol_name};

/// Two interfaces on top of each other would redirect the same port.
#[derive(Debug, Error)]
#[error(
    "{upper} is on top of {lower}, and both would redirect port {port}/{protocol}: a packet passes both, and the second would refuse \
     it; choose one of them (`rprox-loader detach -i NAME` takes the other off), or give them different ports"
)]
pub struct StackingError {
    upper: String,
    lower: String,
    port: u16,
    protocol: &'static str,
}

/// Looks for such interfaces among those of `settings` and those that are attached already.
///
/// # Errors
///
/// The first pair found.
pub fn check(devices: &[Device], settings: &Settings, attached: &[Pins]) -> Result<(), StackingError> {
    let mut chosen: Vec<(&str, Vec<Rule>)> = settings
        .interfaces
        .iter()
        .map(|(name, policy)| (name.as_str(), policy.rules.as_slice().to_vec()))
        .collect();
    for pins in attached {
        let is_chosen = chosen.iter().any(|(name, _)| *name == pins.interface());
        if let (false, Some(asked)) = (is_chosen, asked::noted(pins)) {
            chosen.push((pins.interface(), asked.rules.as_slice().to_vec()));
        }
    }
    for (upper, rules) in &chosen {
        for (lower, others) in &chosen {
            if !is_above(devices, upper, lower) {
                continue;
            }
            if let Some(rule) = rules.iter().find(|rule| others.iter().any(|other| overlap(**rule, *other))) {
                return Err(StackingError {
                    upper: (*upper).to_owned(),
                    lower: (*lower).to_owned(),
                    port: rule.from,
                    protocol: protocol_name(rule.protocol),
                });
            }
        }
    }
    Ok(())
}

/// Whether a packet could be changed by one rule and met by the other.
fn overlap(rule: Rule, other: Rule) -> bool {
    rule.protocol == other.protocol
        && [rule.from, rule.to].iter().any(|port| *port == other.from || *port == other.to)
}

/// Whether `upper` gets its packets through `lower`.
fn is_above(devices: &[Device], upper: &str, lower: &str) -> bool {
    let find = |name: &str| devices.iter().find(|device| device.name == name);
    let (Some(upper), Some(lower)) = (find(upper), find(lower)) else { return false };
    let mut level = vec![lower.index];
    // Each level once: what the kernel says of devices that come and go meanwhile may lead in a circle.
    for _ in devices {
        level = devices
            .iter()
            .filter(|device| {
                let on_top = device.lower.is_some_and(|index| level.contains(&index));
                let is_controller =
                    |port: &Device| level.contains(&port.index) && port.controller == Some(device.index);
                on_top || devices.iter().any(is_controller)
            })
            .map(|device| device.index)
            .collect();
        if level.contains(&upper.index) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, lower: Option<u32>, controller: Option<u32>) -> Device {
        let mut device = Device::ethernet(index, name);
        (device.lower, device.controller) = (lower, controller);
        device
    }

    #[test]
    fn a_vlan_is_above_its_device_and_a_bridge_above_its_ports() {
        let devices = [
            device(1, "lo", None, None),
            device(2, "eth0", None, Some(4)),
            device(3, "eth1", None, None),
            device(4, "br0", None, None),
            device(5, "br0.5", Some(4), None),
        ];
        for (upper, lower) in [("br0", "eth0"), ("br0.5", "br0"), ("br0.5", "eth0")] {
            assert!(is_above(&devices, upper, lower), "{upper} on {lower}");
            assert!(!is_above(&devices, lower, upper), "{lower} on {upper}");
        }
        assert!(!is_above(&devices, "br0", "eth1"));
        assert!(!is_above(&devices, "eth0", "eth0"));
    }

    #[test]
    fn rules_overlap_where_they_name_the_same_port_of_a_protocol() {
        let overlap = |one: &str, other: &str| overlap(one.parse().unwrap(), other.parse().unwrap());
        assert!(overlap("80:8080", "80:9090"));
        assert!(overlap("80:8080", "8080:9090"));
        assert!(!overlap("80:8080", "81:8081"));
        assert!(!overlap("80:8080", "80:8080/udp"));
    }
}
