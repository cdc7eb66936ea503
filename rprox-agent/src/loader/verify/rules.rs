//! Whether the rule table holds the rules asked for, and nothing else.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use rprox_common::{PortEntry, PortKind, Protocol, State};

use super::Difference;
use crate::loader::Error;
use crate::loader::asked::Asked;
use crate::loader::config::Direct;
use crate::loader::maps::Maps;
use crate::loader::rule::{Rule, protocol_name};

type Table = BTreeMap<(Protocol, u16), PortEntry>;

/// Checks both generations and the state. Without `asked` only whether they make sense. `to_steer`: TCP is left to `steer`.
pub(super) fn check(
    interface: &str,
    maps: &Maps,
    asked: Option<&Asked>,
    to_steer: bool,
) -> Result<Vec<Difference>, Error> {
    let state = maps.state()?;
    let again = format!("run `rprox-loader attach -i {interface}` again with the rules you want");
    let mut differences = Vec::new();
    let plain = State::new(state.generation(), state.allow_direct());
    let known = if to_steer { plain.left_to_steer() } else { plain };
    if state != known {
        differences.push(Difference::new("STATE", format!("{known:?}"), format!("{state:?}"), &again));
    }
    if let Some(asked) = asked
        && (asked.direct == Direct::Allow) != state.allow_direct()
    {
        let found = if state.allow_direct() { Direct::Allow } else { Direct::Deny };
        differences.push(Difference::new(
            "the direct policy in STATE",
            asked.direct.name(),
            found.name(),
            &again,
        ));
    }

    let table = maps.table(state.generation())?;
    let own = rules_of(&table);
    let asked = asked.map_or(own.as_slice(), |asked| asked.rules.as_slice());
    // Attaching again mends rules that differ, but what rules don't speak of only a new table is free of.
    let mend = format!("run `rprox-loader detach -i {interface}`, and attach again with the rules you want");
    differences.extend(compare(&table, asked, maps.rule_capacity(), &mend));

    let spare = maps.table(1 - state.generation())?;
    let wrong = compare(&spare, &rules_of(&spare), maps.rule_capacity(), "").len();
    if wrong > 0 {
        differences.push(Difference::new(
            "the generation of PORTS that is not in force",
            "rules that were in force before, or none",
            format!("{wrong} entries that make no rules: a rule change was cut short, or somebody wrote there"),
            "nothing uses it, and the next change of rules overwrites it; to be rid of it now, detach and attach again",
        ));
    }
    Ok(differences)
}

/// The rules that a table's FROM entries stand for.
fn rules_of(table: &Table) -> Vec<Rule> {
    table
        .iter()
        .filter(|(_, entry)| entry.kind() == PortKind::From)
        .map(|(&(protocol, from), entry)| Rule { from, to: u16::from_be(entry.peer()), protocol })
        .collect()
}

/// How `table` differs from one that holds `rules` and nothing else. Which counters a rule has is the loader's choice, but each
/// has its own.
fn compare(table: &Table, rules: &[Rule], capacity: u32, remedy: &str) -> Vec<Difference> {
    let mut expected: HashMap<(Protocol, u16), PortEntry> = HashMap::new();
    let mut counters: HashMap<u16, Rule> = HashMap::new();
    let mut differences = Vec::new();
    for &rule in rules {
        let place = table.get(&(rule.protocol, rule.from)).map_or(0, |entry| entry.rule());
        expected.insert((rule.protocol, rule.from), PortEntry::new(PortKind::From, place, rule.to));
        expected.insert((rule.protocol, rule.to), PortEntry::new(PortKind::To, place, rule.from));
        if !table.contains_key(&(rule.protocol, rule.from)) {
            continue;
        }
        let other = counters.insert(place, rule);
        if u32::from(place) >= capacity || other.is_some() {
            let found =
                other.map_or(format!("{place}, of {capacity}"), |other| format!("{place}, as {other}"));
            differences.push(Difference::new(
                format!("the counters of rule {rule}"),
                "counters of its own",
                found,
                remedy,
            ));
        }
    }
    let mut ports: Vec<_> = expected.keys().chain(table.keys()).copied().collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        let none = PortEntry::default();
        let expected = expected.get(&port).unwrap_or(&none);
        let found = table.get(&port).unwrap_or(&none);
        if expected != found {
            let (protocol, number) = (protocol_name(port.0), port.1);
            differences.push(Difference::new(
                format!("port {number}/{protocol} in PORTS"),
                meaning(*expected),
                meaning(*found),
                remedy,
            ));
        }
    }
    differences
}

/// What an entry says.
fn meaning(entry: PortEntry) -> String {
    let peer = u16::from_be(entry.peer());
    match entry.kind() {
        _ if entry == PortEntry::default() => "no rule".to_owned(),
        kind @ (PortKind::From | PortKind::To) if entry == PortEntry::new(kind, entry.rule(), peer) => {
            let way = if kind == PortKind::From { "redirected to" } else { "answers as" };
            format!("{way} port {peer}, counters {}", entry.rule())
        }
        _ => format!("{entry:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[(&str, u16)]) -> Table {
        let mut table = Table::new();
        for (text, place) in rules {
            let rule: Rule = text.parse().unwrap();
            table.insert((rule.protocol, rule.from), PortEntry::new(PortKind::From, *place, rule.to));
            table.insert((rule.protocol, rule.to), PortEntry::new(PortKind::To, *place, rule.from));
        }
        table
    }

    fn found(table: &Table, rules: &[&str]) -> Vec<String> {
        let rules: Vec<Rule> = rules.iter().map(|text| text.parse().unwrap()).collect();
        let line = |difference: Difference| {
            format!("{}: {} -> {}", difference.what, difference.expected, difference.found)
        };
        compare(table, &rules, 8, "").into_iter().map(line).collect()
    }

    #[test]
    fn a_sound_table_passes_whatever_its_counters() {
        assert_eq!(
            found(&table(&[("80:8080", 5), ("443:8443/udp", 0)]), &["443:8443/udp", "80:8080"]),
            [""; 0]
        );
    }

    #[test]
    fn a_changed_a_missing_and_an_extra_entry_are_named() {
        let mut table = table(&[("80:8080", 0), ("443:8443", 1)]);
        table.insert((Protocol::Tcp, 80), PortEntry::new(PortKind::From, 0, 9090));
        table.remove(&(Protocol::Tcp, 8443));
        table.insert((Protocol::Udp, 53), PortEntry::new(PortKind::From, 2, 5353));
        assert_eq!(
            found(&table, &["80:8080", "443:8443"]),
            [
                "port 80/tcp in PORTS: redirected to port 8080, counters 0 -> redirected to port 9090, counters 0",
                "port 8443/tcp in PORTS: answers as port 443, counters 1 -> no rule",
                "port 53/udp in PORTS: no rule -> redirected to port 5353, counters 2",
            ]
        );
    }

    #[test]
    fn counters_are_a_rules_own_and_exist() {
        let shared = found(&table(&[("80:8080", 3), ("443:8443", 3)]), &["80:8080", "443:8443"]);
        assert_eq!(shared, ["the counters of rule 443:8443: counters of its own -> 3, as 80:8080"]);
        let beyond = found(&table(&[("80:8080", 8)]), &["80:8080"]);
        assert_eq!(beyond, ["the counters of rule 80:8080: counters of its own -> 8, of 8"]);
    }
}
