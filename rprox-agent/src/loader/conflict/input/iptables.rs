//! What `iptables-save` lists of the table `filter`.

#![forbid(unsafe_code)]

use super::{Chains, Condition, Fate, Packet, Refusal, Step, Verdict, fate, named};
use crate::loader::conflict::firewall::{is_interface, matches_ports, protocol};

const CHAIN: &str = "INPUT";

/// Extensions whose conditions are understood, or that have none.
const UNDERSTOOD: [&str; 6] = ["tcp", "udp", "multiport", "comment", "conntrack", "state"];

pub(super) fn refusal(text: &str, edit: &str, packet: Packet<'_>) -> Option<Refusal> {
    let names: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix(':')?.split_ascii_whitespace().next()).collect();
    let mut chains = Chains::new();
    for line in text.lines().filter(|line| line.starts_with("-A ")) {
        let words = words(line);
        let Some(chain) = words.get(1) else { continue };
        let (condition, verdict) = read(&words[2..], packet, &names);
        let step = Step { condition, verdict, text: format!("{edit} {line}") };
        chains.entry(chain.clone()).or_default().push(step);
    }
    let refuses = ["DROP", "REJECT"].iter().any(|policy| text.contains(&format!("\n:{CHAIN} {policy} ")));
    let rule = match fate(&chains, CHAIN, 0) {
        Fate::Refused(rule) => rule.to_owned(),
        Fate::Undecided if refuses => format!("the policy of {edit}'s chain {CHAIN}"),
        Fate::In | Fate::Undecided => return None,
    };
    let (protocol, port) = named(packet);
    let interface = packet.interface;
    let remedy = format!(
        "run `{edit} -I {CHAIN} -i {interface} -p {protocol} --dport {port} -j ACCEPT` (by UFW: `ufw allow in on {interface} to any \
         port {port} proto {protocol}`)"
    );
    Some(Refusal { rule, remedy })
}

/// The words of a rule; what is within quotation marks is one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in line.split('"').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_ascii_whitespace().map(str::to_owned));
        }
    }
    words
}

fn read(words: &[String], packet: Packet<'_>, chains: &[&str]) -> (Condition, Verdict) {
    let mut condition = Condition::Holds;
    let mut is_negated = false;
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if word == "!" {
            is_negated = true;
            continue;
        }
        if !word.starts_with('-') {
            // A value of what is not understood.
            continue;
        }
        let value = words.peek().copied().unwrap_or_default();
        let one = match word {
            "-j" | "-g" => return (condition, verdict(word, value, chains)),
            "-i" => Condition::new(is_interface(value, packet.interface)),
            "-p" => Condition::new(value == "all" || protocol(value) == Some(packet.port.0)),
            "--dport" | "--dports" => Condition::new(matches_ports(value, packet.port.1)),
            "--ctstate" | "--state" => Condition::new(value.split(',').any(|state| state == "NEW")),
            "--comment" => Condition::Holds,
            "-m" if UNDERSTOOD.contains(&value) => Condition::Holds,
            _ => Condition::Unknown,
        };
        condition = condition.and(one.negated_if(is_negated));
        is_negated = false;
        words.next_if(|value| *value != "!" && !value.starts_with('-'));
    }
    (condition, Verdict::None)
}

fn verdict(word: &str, target: &str, chains: &[&str]) -> Verdict {
    match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Refuse,
        "RETURN" => Verdict::Return,
        "AUDIT" | "CONNMARK" | "LOG" | "MARK" | "NFLOG" | "TRACE" => Verdict::None,
        // NFQUEUE, and what else may decide.
        other if !chains.contains(&other) => Verdict::Accept,
        chain if word == "-g" => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rprox_common::Protocol;

    use super::*;

    fn refused(policy: &str, rules: &str) -> Option<String> {
        let text = format!("*filter\n:INPUT {policy} [0:0]\n:web - [0:0]\n{rules}COMMIT\n");
        let packet = Packet { port: (Protocol::Tcp, 8080), interface: "eth0" };
        refusal(&text, "iptables", packet).map(|refusal| refusal.rule)
    }

    #[test]
    fn a_policy_refuses_what_no_rule_lets_in() {
        assert_eq!(refused("ACCEPT", ""), None);
        assert_eq!(refused("DROP", "").unwrap(), "the policy of iptables's chain INPUT");
        for lets_in in [
            "-A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT\n",
            "-A INPUT -i eth+ -p tcp -m multiport --dports 80,8000:9000 -m comment --comment \"web and -j DROP\" -j ACCEPT\n",
            "-A INPUT -m conntrack --ctstate NEW -j web\n-A web -p tcp -j ACCEPT\n",
            "-A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 8080 -j ACCEPT\n",
            "-A INPUT ! -i lo -j ACCEPT\n",
            "-A INPUT -j NFQUEUE --queue-num 0\n",
        ] {
            assert_eq!(refused("DROP", lets_in), None, "{lets_in}");
        }
        for does_not in [
            "-A INPUT -i lo -j ACCEPT\n",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
            "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n-A INPUT -p udp -m udp --dport 8080 -j ACCEPT\n",
            "-A INPUT -j LOG --log-prefix \"in: \"\n",
            "-A INPUT -j web\n-A web -p tcp -m tcp ! --dport 8080 -j ACCEPT\n",
        ] {
            assert!(refused("DROP", does_not).is_some(), "{does_not}");
        }
    }

    #[test]
    fn a_rule_refuses_what_none_before_it_lets_in() {
        let rejects = "-A INPUT -j REJECT --reject-with icmp-port-unreachable\n";
        assert_eq!(refused("ACCEPT", rejects).unwrap(), format!("iptables {}", rejects.trim()));
        assert_eq!(refused("ACCEPT", &format!("-A INPUT -p tcp -j ACCEPT\n{rejects}")), None);
        // Somebody who is blocked is not everybody.
        assert_eq!(refused("ACCEPT", "-A INPUT -s 192.0.2.7/32 -j DROP\n"), None);
        assert_eq!(refused("ACCEPT", "-A\n-A INPUT\n-A INPUT -j\n-A INPUT \"\n"), None);
    }
}
