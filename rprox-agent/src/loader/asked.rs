//! What was asked for, written down beside the pins, so that `verify` can compare it with what is.

#![forbid(unsafe_code)]

use rprox_common::Protocol;

use super::config::{Direct, Policy};
use super::pins::{NOTE_LEN, PinError, Pins};
use super::rule::{Rule, RuleSet};
use super::{kernel_log, object};

/// The object that the programs are of.
const OBJECT: &str = "object";
/// What a direct connection gets.
const DIRECT: &str = "asked_direct";

/// What an attachment was last asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The redirect rules.
    pub rules: RuleSet,
    /// What a direct connection gets.
    pub direct: Direct,
}

impl From<&Policy> for Asked {
    fn from(policy: &Policy) -> Self {
        Self { rules: policy.rules.clone(), direct: policy.direct }
    }
}

/// Writes down `policy`, and what the programs in force are loaded from and with.
///
/// # Errors
///
/// The bpffs refused.
pub fn note(pins: &Pins, policy: &Policy) -> Result<(), PinError> {
    let pages = pages(policy.rules.as_slice());
    for (number, page) in pages.iter().enumerate() {
        pins.note(&page_name(number), page)?;
    }
    // Fewer rules than before may leave pages over.
    for number in pages.len().. {
        if !pins.forget(&page_name(number))? {
            break;
        }
    }
    pins.note(DIRECT, policy.direct.name())?;
    pins.note(OBJECT, object::SHA256)?;
    kernel_log::note(pins)
}

/// What was written down; `None` if nothing sound was.
#[must_use]
pub fn noted(pins: &Pins) -> Option<Asked> {
    let pages = (0..).map_while(|number| pins.noted(&page_name(number)));
    let mut rules = Vec::new();
    for page in pages {
        for rule in page.split(',') {
            rules.push(rule.parse().ok()?);
        }
    }
    Some(Asked { rules: RuleSet::new(rules).ok()?, direct: Direct::from_name(&pins.noted(DIRECT)?)? })
}

/// The SHA-256 of the object that the attached programs are of, as written down.
#[must_use]
pub fn noted_object(pins: &Pins) -> Option<String> {
    pins.noted(OBJECT)
}

fn page_name(number: usize) -> String {
    format!("asked_rules_{number}")
}

/// The rules in their text form and one order, separated by commas, on as many pages of [`NOTE_LEN`] as it takes.
fn pages(rules: &[Rule]) -> Vec<String> {
    let mut sorted = rules.to_vec();
    sorted.sort_by_key(|rule| (rule.protocol != Protocol::Tcp, rule.from));
    let mut pages = vec![String::new()];
    for text in sorted.iter().map(ToString::to_string) {
        match pages.last_mut() {
            Some(page) if page.is_empty() => page.push_str(&text),
            Some(page) if page.len() + 1 + text.len() <= NOTE_LEN => {
                page.push(',');
                page.push_str(&text);
            }
            _ => pages.push(text),
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn policy(rules: impl Iterator<Item = u16>, direct: Direct) -> Policy {
        let rule = |from| Rule { from, to: from + 30_000, protocol: Protocol::Udp };
        Policy { rules: RuleSet::new(rules.map(rule).collect()).unwrap(), direct, ..Policy::default() }
    }

    #[test]
    fn the_most_rules_survive_a_round_trip_and_fewer_replace_them() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path(), "eth0");
        pins.create().unwrap();
        assert_eq!(noted(&pins), None);
        for policy in [policy(1..=16_384, Direct::Deny), policy(7..=8, Direct::Allow)] {
            note(&pins, &policy).unwrap();
            assert_eq!(noted(&pins), Some(Asked::from(&policy)));
        }
        assert_eq!(noted_object(&pins).as_deref(), Some(object::SHA256));
    }

    #[test]
    fn nothing_half_written_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(Path::new(directory.path()), "eth0");
        pins.create().unwrap();
        pins.note(&page_name(0), "80:8080,").unwrap();
        pins.note(DIRECT, "deny").unwrap();
        assert_eq!(noted(&pins), None);
    }
}
