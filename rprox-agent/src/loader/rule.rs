//! Redirect rules: their text form, and what makes a set of them sound.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use rprox_common::{MAX_RULES, Protocol};
use serde::Serialize;
use thiserror::Error;

/// A redirect rule: what arrives for port FROM reaches the socket that listens on TO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The port that peers connect to.
    pub from: u16,
    /// The port that the listener is bound to.
    pub to: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What is wrong with a rule, or with rules taken together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RuleError {
    /// The text is not of the form `FROM:TO[/PROTO]`.
    #[error(
        "redirect rule {text:?}: {reason}; write FROM:TO or FROM:TO/PROTO, such as 80:8080 or 443:8443/udp"
    )]
    Form {
        /// The rule as it was given.
        text: String,
        /// What does not fit.
        reason: String,
    },
    /// FROM and TO are one port.
    #[error(
        "redirect rule {0}: FROM and TO are the same port, so there is nothing to redirect; leave the rule out"
    )]
    Same(Rule),
    /// Two rules redirect the same port.
    #[error("redirect rules {0} and {1}: port {from}/{protocol} can be redirected only once; leave one out",
        from = .1.from, protocol = protocol_name(.1.protocol))]
    FromTwice(Rule, Rule),
    /// Two rules redirect to the same port.
    #[error(
        "redirect rules {0} and {1}: both lead to port {to}/{protocol}, so an answer from it could belong to either; \
         give each its own TO port",
        to = .1.to, protocol = protocol_name(.1.protocol)
    )]
    ToTwice(Rule, Rule),
    /// A port is redirected and also redirected to.
    #[error(
        "redirect rules {from} and {to}: port {port}/{protocol} is FROM of the first and TO of the second; rules do not chain, \
         so choose another port",
        port = from.from, protocol = protocol_name(from.protocol)
    )]
    Chain {
        /// The rule that redirects the port.
        from: Rule,
        /// The rule that leads to it.
        to: Rule,
    },
    /// More rules than an attachment takes.
    #[error("{0} redirect rules: an interface takes at most {MAX_RULES}")]
    TooMany(usize),
    /// No rule at all.
    #[error("no redirect rule: give at least one, such as 80:8080")]
    Empty,
}

/// The protocol as rules spell it.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let malformed = |reason: String| RuleError::Form { text: text.to_owned(), reason };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, name)) if name.eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
            Some((ports, name)) if name.eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
            Some((_, name)) => return Err(malformed(format!("protocol {name:?} is neither tcp nor udp"))),
        };
        let (from, to) =
            ports.split_once(':').ok_or_else(|| malformed("there is no ':' in it".to_owned()))?;
        let rule = Self {
            from: port("FROM", from).map_err(malformed)?,
            to: port("TO", to).map_err(malformed)?,
            protocol,
        };
        if rule.from == rule.to { Err(RuleError::Same(rule)) } else { Ok(rule) }
    }
}

/// Reads one port of a rule; `side` is FROM or TO.
fn port(side: &str, text: &str) -> Result<u16, String> {
    // `u64::from_str` takes a sign, and a port has none.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{side} {text:?} is not a port number"));
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{side} port {text} is not between 1 and 65535")),
        Ok(port) => Ok(port),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.from, self.to)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The rules of one interface: at least one, at most [`MAX_RULES`], and no port with two meanings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet(Vec<Rule>);

impl RuleSet {
    /// Checks `rules` against each other.
    ///
    /// # Errors
    ///
    /// The first pair of rules that contradict each other, or that there are too many or none.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        if rules.is_empty() {
            return Err(RuleError::Empty);
        }
        if rules.len() > MAX_RULES as usize {
            return Err(RuleError::TooMany(rules.len()));
        }
        let (mut froms, mut tos) = (HashMap::new(), HashMap::new());
        for &rule in &rules {
            if let Some(other) = froms.insert((rule.protocol, rule.from), rule) {
                return Err(RuleError::FromTwice(other, rule));
            }
            if let Some(other) = tos.insert((rule.protocol, rule.to), rule) {
                return Err(RuleError::ToTwice(other, rule));
            }
        }
        for &from in &rules {
            if let Some(&to) = tos.get(&(from.protocol, from.from)) {
                return Err(RuleError::Chain { from, to });
            }
        }
        Ok(Self(rules))
    }

    /// The rules, in the order they were given.
    #[must_use]
    pub fn as_slice(&self) -> &[Rule] {
        &self.0
    }
}

impl Default for RuleSet {
    /// HTTP and HTTPS to the ports that an unprivileged proxy listens on, HTTP/3 included.
    fn default() -> Self {
        Self(vec![
            Rule { from: 80, to: 8080, protocol: Protocol::Tcp },
            Rule { from: 443, to: 8443, protocol: Protocol::Tcp },
            Rule { from: 443, to: 8443, protocol: Protocol::Udp },
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> Result<RuleSet, String> {
        let rules = texts.iter().map(|text| text.parse().unwrap()).collect();
        RuleSet::new(rules).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_and_writes_rules() {
        for (text, written) in [
            ("80:8080", "80:8080"),
            ("443:8443/udp", "443:8443/udp"),
            ("443:8443/TCP", "443:8443"),
            ("1:65535", "1:65535"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn says_what_is_wrong_and_shows_the_form() {
        for (text, reason) in [
            ("80-8080", "there is no ':' in it"),
            ("", "there is no ':' in it"),
            (":8080", "FROM \"\" is not a port number"),
            ("80:", "TO \"\" is not a port number"),
            ("http:8080", "FROM \"http\" is not a port number"),
            ("+80:8080", "FROM \"+80\" is not a port number"),
            ("80: 8080", "TO \" 8080\" is not a port number"),
            ("80:8080:9090", "TO \"8080:9090\" is not a port number"),
            ("0:8080", "FROM port 0 is not between 1 and 65535"),
            ("80:65536", "TO port 65536 is not between 1 and 65535"),
            ("80:99999999999999999999", "TO port 99999999999999999999 is not between 1 and 65535"),
            ("80:8080/sctp", "protocol \"sctp\" is neither tcp nor udp"),
            ("80:8080/", "protocol \"\" is neither tcp nor udp"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(error.contains("write FROM:TO or FROM:TO/PROTO"), "{error}");
        }
        assert!("80:80".parse::<Rule>().unwrap_err().to_string().contains("the same port"));
    }

    #[test]
    fn a_port_has_one_meaning_in_each_protocol() {
        assert!(set(&["80:8080", "80:8080/udp", "443:8443"]).is_ok());
        let error = set(&["80:8080", "80:9090"]).unwrap_err();
        assert!(error.contains("80:8080 and 80:9090") && error.contains("only once"), "{error}");
        let error = set(&["80:8080", "81:8080"]).unwrap_err();
        assert!(error.contains("both lead to port 8080/tcp"), "{error}");
        let error = set(&["80:8080", "8080:9090"]).unwrap_err();
        assert!(error.contains("port 8080/tcp is FROM of the first and TO of the second"), "{error}");
        assert!(set(&["80:8080", "8080:9090/udp"]).is_ok());
        let error = set(&["80:8080", "8080:80"]).unwrap_err();
        assert!(error.contains("rules do not chain"), "{error}");
    }

    #[test]
    fn limits_the_number_of_rules() {
        assert_eq!(RuleSet::new(vec![]), Err(RuleError::Empty));
        let rules =
            |count: u16| (1..=count).map(|from| Rule { from, to: from + 30_000, protocol: Protocol::Tcp });
        assert!(RuleSet::new(rules(16_384).collect()).is_ok());
        assert_eq!(RuleSet::new(rules(16_385).collect()), Err(RuleError::TooMany(16_385)));
    }

    #[test]
    fn the_defaults_are_sound() {
        let rules = RuleSet::default();
        assert_eq!(RuleSet::new(rules.as_slice().to_vec()), Ok(rules));
    }
}
