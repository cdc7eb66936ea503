//! The ports: who has them, who may have them, and what else lays claim to them.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use rprox_common::Protocol;

use crate::findings::Finding;
use crate::loader::config::Policy;
use crate::loader::conflict::input::{Input, Packet, Refusal};
use crate::loader::conflict::listener::{self, Socket};
use crate::loader::conflict::outgoing::Side;
use crate::loader::conflict::{Claim, Port, mptcp, outgoing, unprivileged};
use crate::loader::guard;
use crate::loader::mode::{Mode, ModeChoice};
use crate::loader::owner::Owner;
use crate::loader::rule::protocol_name;

/// What is to be said of the TO ports of `policy`.
pub(super) fn of_policy(policy: &Policy) -> Vec<Finding> {
    let rules = policy.rules.as_slice();
    let to: BTreeSet<u16> = rules.iter().map(|rule| rule.to).collect();
    let mut findings = Vec::new();
    findings.extend(privileged(&to, unprivileged::start()));
    findings.extend(outgoing_ports(outgoing::warning(&to, Side::To)));
    if let Err(error) = guard::check_holders(rules, policy.owner.unwrap_or(Owner::Any)) {
        let remedy = "end that process, or choose another TO port with -r";
        findings.push(Finding::fault("taken port", error.to_string(), remedy));
    }
    // Under `grant` the owner listens on FROM itself.
    if policy.mode != ModeChoice::Grant {
        let tcp =
            rules.iter().filter(|rule| rule.protocol == Protocol::Tcp).map(|rule| (rule.protocol, rule.to));
        let tcp: BTreeSet<_> = tcp.collect();
        if let Ok(sockets) = listener::sockets(&tcp) {
            let ports = tcp.iter().map(|(_, port)| *port);
            findings.extend(ports.map(|port| listening(port, policy.mode, &sockets)));
        }
    }
    findings
}

fn outgoing_ports(warning: Option<String>) -> Option<Finding> {
    let remedy = "as said there, and put the setting into /etc/sysctl.d";
    Some(Finding::warning("outgoing ports", warning?, remedy))
}

/// What is to be said of the FROM ports of `policy`, which is served by `mode`.
pub(super) fn outgoing_from(policy: &Policy, mode: Mode) -> Option<Finding> {
    outgoing_ports(outgoing::warning(&outgoing::changed(policy.rules.as_slice(), mode), Side::From))
}

/// A listener of `policy` that mode `steer` can't serve.
pub(super) fn unfit(policy: &Policy) -> Option<Finding> {
    let hindrance = mptcp::hindrance(policy.rules.as_slice())?;
    let found = format!("{hindrance}: connections are refused");
    Some(Finding::fault("listener", found, mptcp::REMEDY))
}

/// Whether an ordinary user can bind `ports`, where `first` is the first that it can.
fn privileged(ports: &BTreeSet<u16>, first: u16) -> Option<Finding> {
    let low: Vec<String> = ports.iter().filter(|port| **port < first).map(ToString::to_string).collect();
    (!low.is_empty()).then(|| {
        Finding::fault(
            "unprivileged ports",
            format!(
                "no ordinary user can listen on {}: net.ipv4.ip_unprivileged_port_start is {first}",
                low.join(", ")
            ),
            "choose TO ports from there on with -r; `--mode grant` lets the owner have low FROM ports",
        )
    })
}

/// What is to be said of the FROM ports of `policy` under mode `grant`.
pub(super) fn granted(policy: &Policy) -> Option<Finding> {
    let warning = unprivileged::warning(policy.rules.as_slice())?;
    Some(Finding::warning("granted ports", warning, "as said there, and put the setting into /etc/sysctl.d"))
}

/// Whether one of `sockets` gets what is redirected to `port`.
fn listening(port: u16, mode: ModeChoice, sockets: &[Socket]) -> Finding {
    let check = format!("port {port}");
    let mut own = sockets.iter().filter(|socket| socket.port == (Protocol::Tcp, port)).peekable();
    if own.peek().is_none() {
        let remedy =
            "start the agent (`rprox-agent doctor` tells what keeps it); until then connections are refused";
        return Finding::warning(check, "nothing listens on it", remedy);
    }
    if own.all(|socket| socket.address.is_loopback()) {
        let (found, remedy) =
            ("who listens on it does so on a loopback address alone", "have it listen on [::]");
        return match mode {
            ModeChoice::Grant => Finding::fine(check, found),
            _ => Finding::warning(check, format!("{found}: nothing from outside gets there"), remedy),
        };
    }
    Finding::fine(check, "somebody listens on it")
}

/// What a firewall refuses of what `interface` is to let in. `mode`: how it is served; `None` where that is left to
/// `--mode auto`.
pub(super) fn refused(interface: &str, policy: &Policy, mode: Option<Mode>, input: &Input) -> Vec<Finding> {
    let refusal = |port| input.refusal(Packet { port, interface });
    let rules = policy.rules.as_slice().iter();
    let found = rules.filter_map(|rule| {
        let [from, to] = [rule.from, rule.to].map(|port| (rule.protocol, port));
        // Ports are changed before the firewall's time, sockets chosen after it.
        let port = match (mode, rule.protocol) {
            (Some(Mode::Grant), _) | (Some(Mode::Steer), Protocol::Tcp) => from,
            (Some(_), _) | (None, Protocol::Udp) => to,
            // Of two ways `--mode auto` may take the one that is open, and prefers `steer`.
            (None, Protocol::Tcp) => refusal(to).map(|_| from)?,
        };
        Some((port, refusal(port)?))
    });
    let finding = |((protocol, port), refusal): (Port, Refusal)| {
        let name = protocol_name(protocol);
        let Refusal { rule, remedy } = refusal;
        Finding::fault(
            format!("firewall on {interface}"),
            format!("what comes in for port {port}/{name} is refused by {rule}"),
            format!("{remedy}, and put that into the file that the rules come from"),
        )
    };
    found.map(finding).collect()
}

/// What is to be said of `claims` on FROM ports.
pub(super) fn claims(claims: &[Claim]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for claim in claims {
        let found = claim.to_string();
        findings.push(match claim {
            Claim::Rule { mode: None, .. } => continue,
            Claim::Rule { mode: Some(mode), rule } => {
                let remedy = format!("run `{}`", rule.removal);
                match mode {
                    Mode::Rewrite => Finding::warning("firewall rule", found, remedy),
                    Mode::Steer | Mode::Grant => Finding::fault("firewall rule", found, remedy),
                }
            }
            Claim::Saved(rule) => Finding::warning("firewall rule", found, rule.removal.as_str()),
            Claim::Held { .. } => Finding::fault("taken port", found, "end that process"),
            Claim::Listener { .. } => {
                let remedy =
                    "end that process if the agent is to serve in its place, or choose other rules with -r";
                Finding::warning("taken port", found, remedy)
            }
        });
    }
    if findings.is_empty() {
        findings.push(Finding::fine("firewall rules and listeners", "none is in the way"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};
    use crate::loader::conflict::firewall::FirewallRule;
    use crate::loader::conflict::listener::Listener;

    #[test]
    fn low_ports_are_told() {
        let ports = BTreeSet::from([80, 1023, 8080]);
        let found = privileged(&ports, 1024).unwrap();
        assert!(found.severity == Fault && found.found.contains("on 80, 1023:"), "{found:?}");
        assert_eq!(privileged(&ports, 80), None);
    }

    #[test]
    fn who_listens_where() {
        let socket = |address: &str| Socket {
            address: address.parse().unwrap(),
            port: (Protocol::Tcp, 8080),
            user: 1000,
            inode: 1,
        };
        let severity = |sockets: &[Socket]| listening(8080, ModeChoice::Auto, sockets).severity;
        assert_eq!(severity(&[]), Warning);
        assert_eq!(severity(&[socket("127.0.0.1"), socket("::1")]), Warning);
        assert_eq!(severity(&[socket("127.0.0.1"), socket("::")]), Fine);
    }

    #[test]
    fn a_rule_breaks_steer_and_confuses_rewrite() {
        let rule = FirewallRule {
            port: (Protocol::Tcp, 80),
            text: "iptables -A PREROUTING".to_owned(),
            removal: "iptables -t nat -D PREROUTING".to_owned(),
            to: Some(8080),
            interface: None,
        };
        let of = |mode| claims(&[Claim::Rule { rule: rule.clone(), mode }]).remove(0);
        assert_eq!(of(Some(Mode::Rewrite)).severity, Warning);
        assert_eq!(of(Some(Mode::Steer)).severity, Fault);
        assert_eq!(of(None).severity, Fine);
        assert_eq!(of(Some(Mode::Steer)).remedy.unwrap(), "run `iptables -t nat -D PREROUTING`");
        let listener = Listener { port: (Protocol::Tcp, 80), user: 33, process: None };
        assert_eq!(claims(&[Claim::Held { listener, owner: 1000 }])[0].severity, Fault);
    }
}
