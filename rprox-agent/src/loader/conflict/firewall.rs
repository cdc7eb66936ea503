//! Finds iptables and nftables rules that redirect a port, by the listings of their own tools and in the files that bring them
//! back at boot.
//!
//! Reading is lenient: what it does not understand it passes over, for a warning missed is better than no redirect.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use rprox_common::Protocol;
use serde_json::Value;

use super::{Port, listing};

/// A firewall rule that redirects a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirewallRule {
    /// The port.
    pub port: Port,
    /// The rule, as its tool writes it.
    pub text: String,
    /// How it is removed.
    pub removal: String,
    /// The port it redirects to, if it names one.
    pub to: Option<u16>,
    /// The interface it is for, if it names one.
    pub interface: Option<String>,
}

impl FirewallRule {
    /// Whether it takes packets that come in by `interface`. Tools write the rest of a name as `+` (iptables) or `*` (nft).
    #[must_use]
    pub fn is_for(&self, interface: &str) -> bool {
        self.interface.as_deref().is_none_or(|name| is_interface(name, interface))
    }
}

/// Whether `interface` is the one that a rule calls `name`.
pub(super) fn is_interface(name: &str, interface: &str) -> bool {
    match name.strip_suffix(['+', '*']) {
        Some(start) => interface.starts_with(start),
        None => interface == name,
    }
}

/// The files that UFW and iptables-persistent load iptables rules from.
const SAVED: [&str; 4] =
    ["/etc/ufw/before.rules", "/etc/ufw/before6.rules", "/etc/iptables/rules.v4", "/etc/iptables/rules.v6"];

/// The lines of files that redirect one of `ports` once they are loaded.
#[must_use]
pub fn find_saved(ports: &BTreeSet<Port>) -> Vec<FirewallRule> {
    SAVED
        .iter()
        .filter_map(|file| Some((file, std::fs::read_to_string(file).ok()?)))
        .flat_map(|(file, text)| saved(&text, file, ports))
        .collect()
}

/// The rules of a file in the form of `iptables-save` that redirect one of `ports`, by line.
fn saved(text: &str, file: &str, ports: &BTreeSet<Port>) -> Vec<FirewallRule> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for rule in iptables(line.trim(), "iptables", ports) {
            let text = format!("{file}:{}: {}", number + 1, line.trim());
            found.push(FirewallRule { text, removal: "take that line out of the file".to_owned(), ..rule });
        }
    }
    found
}

/// The rules that redirect one of `ports`.
#[must_use]
pub fn find(ports: &BTreeSet<Port>) -> Vec<FirewallRule> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (edit, text) in listing::iptables("nat") {
        let family = edit.trim_end_matches("-legacy");
        for rule in iptables(&text, edit, ports) {
            if seen.insert((family, rule.port, rule.text.clone())) {
                found.push(rule);
            }
        }
    }
    // iptables-nft keeps its rules in nftables too; those are named above, in the form that they were written in.
    let text = listing::nftables();
    let iptables_too: BTreeSet<Port> = found.iter().map(|rule| rule.port).collect();
    found.extend(
        text.iter()
            .flat_map(|text| nftables(text, ports))
            .filter(|rule| !(iptables_too.contains(&rule.port) && rule.text.contains(" nat PREROUTING "))),
    );
    found
}

/// The rules of iptables' table `nat` that redirect one of `ports`.
fn iptables(text: &str, edit: &str, ports: &BTreeSet<Port>) -> Vec<FirewallRule> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("-A ")) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let after =
            |names: &[&str]| words.windows(2).find(|pair| names.contains(&pair[0])).map(|pair| pair[1]);
        // OUTPUT is for what this host itself sends.
        if !matches!(after(&["-j"]), Some("REDIRECT" | "DNAT")) || words.get(1) == Some(&"OUTPUT") {
            continue;
        }
        let Some(protocol) = after(&["-p"]).and_then(protocol) else { continue };
        let Some(dports) = after(&["--dport", "--dports", "--destination-port"]) else { continue };
        if negated(&words) {
            continue;
        }
        for &port in ports.iter().filter(|port| port.0 == protocol && matches_ports(dports, port.1)) {
            let removal = format!("{edit} -t nat -D {}", &line[3..]);
            let to = after(&["--to-ports", "--to-port", "--to-destination"]);
            found.push(FirewallRule {
                port,
                text: format!("{edit} {line}"),
                removal,
                to: to.and_then(|to| to.rsplit(':').next()?.parse().ok()),
                interface: interface(&words),
            });
        }
    }
    found
}

/// The interface that a rule is for; of one that is for all but an interface, none.
fn interface(words: &[&str]) -> Option<String> {
    let place = words.iter().position(|word| ["-i", "--in-interface"].contains(word))?;
    let is_negated = words[..place].last() == Some(&"!");
    words.get(place + 1).filter(|_| !is_negated).map(|name| (*name).to_owned())
}

/// Whether the port match of a rule is of the form `! --dport`.
fn negated(words: &[&str]) -> bool {
    words.windows(2).any(|pair| pair[0] == "!" && pair[1].starts_with("--d"))
}

/// Whether an iptables list of ports and ranges (`80,443,8000:8080`) has `port` in it.
pub(super) fn matches_ports(list: &str, port: u16) -> bool {
    list.split(',').any(|item| match item.split_once(':') {
        Some((low, high)) => low.parse().unwrap_or(0) <= port && port <= high.parse().unwrap_or(u16::MAX),
        None => item.parse() == Ok(port),
    })
}

pub(super) fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        _ => None,
    }
}

/// The rules of an `nft -j list ruleset` listing that redirect one of `ports`.
fn nftables(text: &str, ports: &BTreeSet<Port>) -> Vec<FirewallRule> {
    let Ok(ruleset) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Only what packets from outside go through: a chain on the prerouting hook, or one that may be jumped to from there.
    let outbound: BTreeSet<(&str, &str, &str)> = objects
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| matches!(chain["hook"].as_str(), Some(hook) if hook != "prerouting"))
        .filter_map(|chain| {
            Some((chain["family"].as_str()?, chain["table"].as_str()?, chain["name"].as_str()?))
        })
        .collect();
    let mut found = Vec::new();
    for rule in objects.iter().map(|object| &object["rule"]) {
        let (Some(family), Some(table), Some(chain)) =
            (rule["family"].as_str(), rule["table"].as_str(), rule["chain"].as_str())
        else {
            continue;
        };
        let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let verdict = expressions.iter().find_map(|expression| {
            ["redirect", "dnat", "xt"].into_iter().find(|kind| expression.get(kind).is_some())
        });
        let Some(verdict @ ("redirect" | "dnat")) = verdict else { continue };
        if outbound.contains(&(family, table, chain)) {
            continue;
        }
        for &port in
            ports.iter().filter(|port| expressions.iter().any(|expression| matches_dport(expression, **port)))
        {
            let handle = rule["handle"].as_u64().unwrap_or_default();
            let target = &expressions
                .iter()
                .find_map(|expression| expression.get(verdict))
                .unwrap_or(&Value::Null)["port"];
            let to = if target.is_null() { String::new() } else { format!(" to :{target}") };
            let name = super::protocol_name(port.0);
            found.push(FirewallRule {
                port,
                text: format!(
                    "nft {family} {table} {chain} {name} dport {} {verdict}{to} # handle {handle}",
                    port.1
                ),
                removal: format!("nft delete rule {family} {table} {chain} handle {handle}"),
                to: target.as_u64().and_then(|to| to.try_into().ok()),
                interface: expressions.iter().find_map(|expression| {
                    let matching = &expression["match"];
                    let named = matching["left"]["meta"]["key"] == "iifname" && matching["op"] == "==";
                    named.then(|| matching["right"].as_str().map(str::to_owned))?
                }),
            });
        }
    }
    found
}

/// Whether an nftables expression is a match of the destination port on `port`.
fn matches_dport(expression: &Value, (wanted, port): Port) -> bool {
    let matching = &expression["match"];
    let payload = &matching["left"]["payload"];
    let named = payload["protocol"].as_str();
    // `th` is the port of any transport protocol.
    let right_protocol = named == Some("th") || named.and_then(protocol) == Some(wanted);
    let equals = matches!(matching["op"].as_str(), Some("==" | "in"));
    payload["field"] == "dport" && right_protocol && equals && holds(&matching["right"], port)
}

/// An element of a set without its counter, time-out or comment.
pub(super) fn plain(value: &Value) -> &Value {
    value.get("elem").map_or(value, |element| &element["val"])
}

/// Whether the right side of an nftables match, a port, range or set, holds `port`.
pub(super) fn holds(value: &Value, port: u16) -> bool {
    let value = plain(value);
    if let Some(number) = value.as_u64() {
        return number == u64::from(port);
    }
    if let Some([low, high]) = value["range"].as_array().map(Vec::as_slice) {
        let port = u64::from(port);
        return low.as_u64().is_some_and(|low| low <= port) && high.as_u64().is_some_and(|high| port <= high);
    }
    let set = value["set"].as_array().or(value.as_array());
    set.is_some_and(|items| items.iter().any(|item| holds(item, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> BTreeSet<Port> {
        BTreeSet::from([(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 443)])
    }

    #[test]
    fn reads_iptables_rules_as_the_article_has_them() {
        let listing = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            -A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n\
            -A PREROUTING -p tcp -m multiport --dports 8000:8080,443 -j DNAT --to-destination 10.0.0.2:8443\n\
            -A PREROUTING -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 2222\n\
            -A PREROUTING -p udp -m udp --dport 80 -j REDIRECT --to-ports 8080\n\
            -A PREROUTING -p tcp -m tcp ! --dport 80 -j REDIRECT --to-ports 8080\n\
            -A PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT\n\
            -A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n";
        let found = iptables(listing, "iptables", &ports());
        assert_eq!(found.iter().map(|rule| rule.port.1).collect::<Vec<_>>(), [80, 443]);
        assert_eq!(
            found[0].removal,
            "iptables -t nat -D PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080"
        );
    }

    #[test]
    fn knows_which_interfaces_a_rule_is_for() {
        for (given, name, is_for) in [
            ("-i eth0", "eth0", true),
            ("-i eth0", "eth00", false),
            ("-i eth+", "eth1", true),
            ("-i wg+", "eth1", false),
            ("! -i lo", "eth1", true),
            ("", "eth1", true),
        ] {
            let line = format!("-A PREROUTING {given} -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080");
            let found = iptables(&line, "iptables", &ports());
            assert_eq!(found[0].is_for(name), is_for, "{line} for {name}");
        }
    }

    #[test]
    fn reads_the_files_that_bring_rules_back() {
        let text = "# rules.before\n*nat\n:PREROUTING ACCEPT [0:0]\n# -A PREROUTING -p tcp --dport 443 -j REDIRECT\n\
            -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 8080\nCOMMIT\n";
        let found = saved(text, "/etc/ufw/before.rules", &ports());
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].text,
            "/etc/ufw/before.rules:5: -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 8080"
        );
        assert_eq!((found[0].to, found[0].interface.as_deref()), (Some(8080), Some("eth0")));
    }

    #[test]
    fn reads_nftables_rules() {
        let listing = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "nat", "name": "pre", "hook": "prerouting"}},
            {"chain": {"family": "ip", "table": "nat", "name": "out", "hook": "output"}},
            {"rule": {"family": "ip", "table": "nat", "chain": "pre", "handle": 4, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
                {"redirect": {"port": 8080}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "pre", "handle": 5, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}},
                           "right": {"set": [22, {"range": [400, 500]}]}}},
                {"dnat": {"addr": "10.0.0.2", "port": 8443}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "pre", "handle": 6, "expr": [
                {"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 443}},
                {"redirect": null}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "out", "handle": 7, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
                {"redirect": {"port": 8080}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "pre", "handle": 8, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
                {"accept": null}]}}]}"#;
        let found = nftables(listing, &ports());
        let seen: Vec<_> = found.iter().map(|rule| (rule.port, rule.removal.as_str())).collect();
        assert_eq!(
            seen,
            [
                ((Protocol::Tcp, 80), "nft delete rule ip nat pre handle 4"),
                ((Protocol::Tcp, 443), "nft delete rule ip nat pre handle 5"),
                ((Protocol::Udp, 443), "nft delete rule ip nat pre handle 5"),
            ]
        );
        assert_eq!(found[0].text, "nft ip nat pre tcp dport 80 redirect to :8080 # handle 4");
    }

    #[test]
    fn passes_over_what_it_does_not_understand() {
        for text in
            ["", "null", "[]", "{\"nftables\": 3}", "{\"nftables\": [{\"rule\": {\"expr\": 1}}]}", "not json"]
        {
            assert_eq!(nftables(text, &ports()), []);
        }
        assert_eq!(
            iptables(
                "-A\n-A PREROUTING -j\n-A PREROUTING -p tcp --dport x:y -j REDIRECT",
                "iptables",
                &BTreeSet::new()
            ),
            []
        );
    }
}
