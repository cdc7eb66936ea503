//! What `nft -j list ruleset` lists.

#![forbid(unsafe_code)]

use rprox_common::Protocol;
use serde_json::Value;

use super::{Chains, Condition, Fate, Packet, Refusal, Step, Verdict, fate, named};
use crate::loader::conflict::firewall::{holds, is_interface, plain, protocol};

pub(super) fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

pub(super) fn refusal(ruleset: &Value, packet: Packet<'_>) -> Option<Refusal> {
    let objects = ruleset["nftables"].as_array()?;
    let bases = objects.iter().map(|object| &object["chain"]).filter(|chain| chain["hook"] == "input");
    bases.into_iter().find_map(|base| of_chain(base, objects, packet))
}

/// What refuses the packet in a chain that all packets to this host go through.
fn of_chain(base: &Value, objects: &[Value], packet: Packet<'_>) -> Option<Refusal> {
    let [family, table, name] = ["family", "table", "name"].map(|key| base[key].as_str());
    let (family, table, name) = (family?, table?, name?);
    // iptables-nft's, which iptables lists.
    if !matches!(family, "ip" | "ip6" | "inet") || (family != "inet" && (table, name) == ("filter", "INPUT"))
    {
        return None;
    }
    let mut chains = Chains::new();
    for rule in objects.iter().map(|object| &object["rule"]) {
        let (true, Some(chain)) =
            (rule["family"] == family && rule["table"] == table, rule["chain"].as_str())
        else {
            continue;
        };
        let handle = rule["handle"].as_u64().unwrap_or_default();
        let text = format!("nft {family} {table} {chain}, handle {handle}");
        let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let steps = read(expressions, packet);
        let steps =
            steps.into_iter().map(|(condition, verdict)| Step { condition, verdict, text: text.clone() });
        chains.entry(chain.to_owned()).or_default().extend(steps);
    }
    let rule = match fate(&chains, name, 0) {
        Fate::Refused(rule) => rule.to_owned(),
        Fate::Undecided if base["policy"] == "drop" => {
            format!("the policy of nft's chain {family} {table} {name}")
        }
        Fate::In | Fate::Undecided => return None,
    };
    let (protocol, port) = named(packet);
    let interface = packet.interface;
    let remedy = format!(
        "run `nft insert rule {family} {table} {name} iifname {interface} {protocol} dport {port} accept`"
    );
    Some(Refusal { rule, remedy })
}

/// A rule as steps: one, or one for each entry of its verdict map.
fn read(expressions: &[Value], packet: Packet<'_>) -> Vec<(Condition, Verdict)> {
    let mut condition = Condition::Holds;
    for expression in expressions {
        let Some((kind, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => condition = condition.and(matches(value, packet)),
            "counter" | "log" | "comment" => {}
            "vmap" => {
                let Some(entries) = value["data"]["set"].as_array() else {
                    // A map by name, which may let anything in.
                    return vec![(Condition::Unknown, Verdict::Accept)];
                };
                let step = |entry: &Value| {
                    let one = has(&value["key"], &entry[0], packet);
                    Some((condition.and(one), verdict(entry[1].as_object()?.iter().next()?)))
                };
                return entries.iter().filter_map(step).collect();
            }
            _ => {
                let verdict = verdict((kind, value));
                if verdict != Verdict::None {
                    return vec![(condition, verdict)];
                }
                condition = condition.and(Condition::Unknown);
            }
        }
    }
    Vec::new()
}

fn verdict((kind, value): (&String, &Value)) -> Verdict {
    let target = || value["target"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        // "queue": another program decides; "xt": words that only iptables knows. Either may let in.
        "accept" | "queue" | "xt" => Verdict::Accept,
        "drop" | "reject" => Verdict::Refuse,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        _ => Verdict::None,
    }
}

fn matches(matching: &Value, packet: Packet<'_>) -> Condition {
    let found = has(&matching["left"], &matching["right"], packet);
    match matching["op"].as_str() {
        Some("==" | "in") => found,
        Some("!=") => found.negated_if(true),
        _ => Condition::Unknown,
    }
}

/// Whether what `left` stands for is one of `right`.
fn has(left: &Value, right: &Value, packet: Packet<'_>) -> Condition {
    // A named set, or what is no plain value.
    if right.as_str().is_some_and(|name| name.starts_with('@')) {
        return Condition::Unknown;
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("th"), Some("dport")) => return Condition::new(holds(right, packet.port.1)),
        (Some(name @ ("tcp" | "udp")), field) => {
            return match field {
                _ if protocol(name) != Some(packet.port.0) => Condition::Fails,
                Some("dport") => Condition::new(holds(right, packet.port.1)),
                _ => Condition::Unknown,
            };
        }
        (Some("ip"), Some("protocol")) => return is_protocol(right, packet),
        _ => {}
    }
    match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
        (Some("iifname" | "iif"), _) => {
            Condition::new(any(right, &|name| is_interface(name, packet.interface)))
        }
        (Some("l4proto"), _) => is_protocol(right, packet),
        (_, Some("state")) => Condition::new(any(right, &|state| state == "new") || has_bit(right, NEW)),
        _ => Condition::Unknown,
    }
}

fn is_protocol(right: &Value, packet: Packet<'_>) -> Condition {
    let number = match packet.port.0 {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    Condition::new(any(right, &|name| protocol(name) == Some(packet.port.0)) || holds(right, number))
}

/// The state `new` as a number (`linux/netfilter/nf_conntrack_common.h`).
const NEW: u64 = 8;

/// Whether a number, or one of a set's, has `bit`.
fn has_bit(value: &Value, bit: u64) -> bool {
    let value = plain(value);
    let set = value["set"].as_array().or(value.as_array());
    value.as_u64().is_some_and(|number| number & bit != 0)
        || set.is_some_and(|items| items.iter().any(|item| has_bit(item, bit)))
}

/// Whether a value, or one of a set's, is so.
fn any(value: &Value, is_so: &dyn Fn(&str) -> bool) -> bool {
    let value = plain(value);
    if let Some(text) = value.as_str() {
        return is_so(text);
    }
    let set = value["set"].as_array().or(value.as_array());
    set.is_some_and(|items| items.iter().any(|item| any(item, is_so)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &str, rules: &str) -> Option<String> {
        let chain =
            r#"{"chain": {"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input""#;
        let text = format!("{{\"nftables\": [{chain}, \"policy\": \"{policy}\"}}}}{rules}]}}");
        let packet = Packet { port: (Protocol::Tcp, 8080), interface: "eth0" };
        refusal(&parse(&text)?, packet).map(|refusal| refusal.rule)
    }

    fn rule(expressions: &str) -> String {
        format!(
            ", {{\"rule\": {{\"family\": \"inet\", \"table\": \"t\", \"chain\": \"in\", \"handle\": 7, \"expr\": [{expressions}]}}}}"
        )
    }

    fn dport(right: &str) -> String {
        let left = r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#;
        format!("{{\"match\": {{\"op\": \"==\", \"left\": {left}, \"right\": {right}}}}}")
    }

    #[test]
    fn a_policy_refuses_what_no_rule_lets_in() {
        let state = r#"{"vmap": {"key": {"ct": {"key": "state"}},
            "data": {"set": [["established", {"accept": null}], ["invalid", {"drop": null}]]}}}"#;
        let lo = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}"#;
        let usual = rule(state) + &rule(&format!("{lo}, {{\"accept\": null}}"));
        assert_eq!(refused("accept", &usual), None);
        assert_eq!(refused("drop", &usual).unwrap(), "the policy of nft's chain inet t in");
        for ports in ["8080", "{\"set\": [80, {\"range\": [8000, 9000]}]}", "\"@ports\""] {
            let lets_in = rule(&format!("{}, {{\"accept\": null}}", dport(ports)));
            assert_eq!(refused("drop", &(usual.clone() + &lets_in)), None, "{ports}");
        }
        let other = rule(&format!("{}, {{\"accept\": null}}", dport("80")));
        assert!(refused("drop", &other).is_some());
    }

    #[test]
    fn what_is_not_understood_may_let_in() {
        let named = r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@zones"}}"#;
        let queued = r#"{"queue": null}"#;
        // As `nft -n` has them: states by number, and what a set counts.
        let new =
            r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": [2, 8]}}, {"accept": null}"#;
        let counted = dport(r#"{"set": [{"elem": {"val": 8080, "counter": {"packets": 0, "bytes": 0}}}]}"#)
            + r#", {"accept": null}"#;
        for lets_in in [named, queued, new, &counted] {
            assert_eq!(refused("drop", &rule(lets_in)), None, "{lets_in}");
        }
        let old =
            r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": 2}}, {"accept": null}"#;
        assert!(refused("drop", &rule(old)).is_some());
    }

    #[test]
    fn a_rule_is_named_by_its_handle() {
        assert_eq!(refused("accept", &rule(r#"{"reject": null}"#)).unwrap(), "nft inet t in, handle 7");
        let somebody = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.0.2.7"}}"#;
        assert_eq!(refused("accept", &rule(&format!("{somebody}, {{\"drop\": null}}"))), None);
        for rubbish in ["", "null", "{\"nftables\": [{\"chain\": {\"hook\": \"input\"}}]}"] {
            let packet = Packet { port: (Protocol::Tcp, 8080), interface: "eth0" };
            assert_eq!(parse(rubbish).and_then(|ruleset| refusal(&ruleset, packet)), None);
        }
    }
}
