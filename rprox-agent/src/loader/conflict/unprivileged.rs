//! Ports that any user may bind, which mode `grant` keeps nobody off.

#![forbid(unsafe_code)]

use std::fs;

use crate::loader::rule::Rule;

/// The first port that a user without privileges can bind.
const START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// The kernel's default.
const DEFAULT: u16 = 1024;

/// The first port that a user without privileges can bind, in this network namespace.
#[must_use]
pub fn start() -> u16 {
    fs::read_to_string(START).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT)
}

/// What to say under mode `grant` of the FROM ports of `rules` that not the owner alone may bind; `None` if there are none.
#[must_use]
pub fn warning(rules: &[Rule]) -> Option<String> {
    say(rules, start())
}

fn say(rules: &[Rule], start: u16) -> Option<String> {
    let loose = rules.iter().map(|rule| rule.from).filter(|from| *from >= start).min()?;
    let remedy = if loose < DEFAULT {
        format!("run `sysctl -w net.ipv4.ip_unprivileged_port_start={DEFAULT}`")
    } else {
        format!("choose a FROM port below {DEFAULT}")
    };
    Some(format!(
        "any user may bind port {loose}, not the owner alone: net.ipv4.ip_unprivileged_port_start is {start}; {remedy}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_anybodys_is_told_with_what_to_do() {
        let said = |rules: &[&str], start| {
            let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            say(&rules, start)
        };
        assert_eq!(said(&["80:8080", "443:8443/udp"], 1024), None);
        assert_eq!(said(&["80:8080"], 81), None);
        let low = said(&["443:8443", "80:8080"], 80).unwrap();
        assert!(low.contains("bind port 80,") && low.ends_with("port_start=1024`"), "{low}");
        let high = said(&["80:8080", "5000:8443"], 1024).unwrap();
        assert!(high.contains("port 5000") && high.ends_with("FROM port below 1024"), "{high}");
    }
}
