//! Whether an interface is there and up, and who else has programs on it.

#![forbid(unsafe_code)]

use aya::programs::ProgramInfo;

use crate::findings::Finding;
use crate::loader::hook::clsact;
use crate::loader::netlink::{Device, Netlink};
use crate::loader::object::Direction;
use crate::loader::pins::Pins;
use crate::loader::query;

/// Others' programs and filters on an interface.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// What to call each.
    others: Vec<String>,
    /// Why they can't be told.
    unknown: Option<String>,
}

impl Neighbours {
    pub(super) async fn read(netlink: &Netlink, device: &Device, pins: &Pins) -> Self {
        let mut neighbours = Self::default();
        for direction in Direction::ATTACH_ORDER {
            let ours = ProgramInfo::from_pin(pins.program(direction)).ok().map(|program| program.id());
            let way = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            match query::tcx(device.index, direction) {
                Ok(programs) => {
                    let others = programs.iter().filter(|hooked| Some(hooked.program) != ours);
                    neighbours
                        .others
                        .extend(others.map(|hooked| format!("TCX program {} ({way})", hooked.program)));
                }
                Err(error) => neighbours.unknown = Some(error.to_string()),
            }
            match clsact::chain(netlink, device, direction, pins).await {
                Ok(chain) => {
                    let others =
                        chain.into_iter().filter(|filter| filter.program.is_none() || filter.program != ours);
                    neighbours.others.extend(others.map(|filter| format!("{} ({way})", filter.title)));
                }
                Err(error) => neighbours.unknown = Some(error.to_string()),
            }
        }
        neighbours
    }
}

/// What is to be said of the interface `name` of a host that has `devices`.
pub(super) fn check(name: &str, devices: &[Device], neighbours: &Neighbours) -> Vec<Finding> {
    let check = format!("interface {name}");
    let Some(device) = devices.iter().find(|device| device.name == name) else {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let remedy = format!("name one that there is with -i: {}", names.join(", "));
        return vec![Finding::fault(check, "there is none of that name", remedy)];
    };
    let mut findings = Vec::new();
    if let Err(error) = device.link_header_len() {
        findings.push(Finding::fault(&check, error.to_string(), "name another with -i"));
    }
    if !device.is_up {
        let remedy = format!("run `ip link set {name} up`");
        findings.push(Finding::warning(&check, "it is down, so nothing arrives by it", remedy));
    }
    if !neighbours.others.is_empty() {
        findings.push(Finding::warning(
            &check,
            format!("others' programs are on it too: {}", neighbours.others.join(", ")),
            "see that they neither drop nor change packets for FROM and TO ports; rprox goes ahead of those by TCX, and lets the \
             packets go on to them (`bpftool net` names them)",
        ));
    }
    if let Some(reason) = &neighbours.unknown {
        let found = format!("others' programs on it can't be told: {reason}");
        findings.push(Finding::warning(&check, found, "run it as root"));
    }
    if findings.is_empty() {
        findings.push(Finding::fine(check, "there, up, and no other program on it"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};

    #[test]
    fn there_up_and_alone() {
        let mut devices = [Device::ethernet(1, "lo"), Device::ethernet(2, "eth0")];
        let alone = Neighbours::default();
        assert_eq!(check("eth0", &devices, &alone)[0].severity, Fine);
        let missing = &check("eth1", &devices, &alone)[0];
        assert!(
            missing.severity == Fault && missing.remedy.as_ref().unwrap().contains("lo, eth0"),
            "{missing:?}"
        );
        devices[1].is_up = false;
        let down = &check("eth0", &devices, &alone)[0];
        assert!(down.severity == Warning && down.remedy.as_ref().unwrap().contains("ip link set eth0 up"));
        let others = Neighbours {
            others: vec!["filter cilium (bpf, priority 1) (ingress)".to_owned()],
            unknown: None,
        };
        assert!(check("lo", &devices, &others)[0].found.contains("cilium"));
    }
}
