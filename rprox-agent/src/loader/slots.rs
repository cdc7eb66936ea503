//! Which of an attachment's counters each rule gets.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::rule::Rule;

/// A rule and the place of its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index into the per-rule counters.
    pub index: u16,
    /// The rule.
    pub rule: Rule,
    /// Whether the counters belonged to no rule, or to another, and must be zeroed first.
    pub fresh: bool,
}

/// Gives each of `wanted` a place among `capacity` counters. A rule that is among `current` keeps its own, so that a changed
/// rule set never resets the counters of the rules that stayed. New rules take places that were free before they take
/// those of rules that went. `None` if there are more rules than places.
#[must_use]
pub fn assign(current: &[Slot], wanted: &[Rule], capacity: u32) -> Option<Vec<Slot>> {
    let capacity = usize::try_from(capacity).ok()?.min(usize::from(u16::MAX) + 1);
    let kept: HashMap<Rule, u16> = current.iter().map(|slot| (slot.rule, slot.index)).collect();
    let mut used = vec![false; capacity];
    let mut stays = vec![false; capacity];
    for slot in current {
        *used.get_mut(usize::from(slot.index))? = true;
    }
    for index in wanted.iter().filter_map(|rule| kept.get(rule)) {
        stays[usize::from(*index)] = true;
    }
    let free = (0..capacity).filter(|&index| !used[index]);
    let freed = (0..capacity).filter(|&index| used[index] && !stays[index]);
    let mut places = free.chain(freed).filter_map(|index| u16::try_from(index).ok());
    wanted
        .iter()
        .map(|&rule| match kept.get(&rule) {
            Some(&index) => Some(Slot { index, rule, fresh: false }),
            None => Some(Slot { index: places.next()?, rule, fresh: true }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn indices(slots: &[Slot]) -> Vec<(u16, bool)> {
        slots.iter().map(|slot| (slot.index, slot.fresh)).collect()
    }

    #[test]
    fn rules_that_stay_keep_their_counters() {
        let first = assign(&[], &rules(&["80:8080", "443:8443", "443:8443/udp"]), 8).unwrap();
        assert_eq!(indices(&first), [(0, true), (1, true), (2, true)]);
        let second = assign(&first, &rules(&["443:8443/udp", "81:8081", "80:8080"]), 8).unwrap();
        assert_eq!(indices(&second), [(2, false), (3, true), (0, false)]);
    }

    #[test]
    fn a_changed_rule_is_another_rule() {
        let first = assign(&[], &rules(&["80:8080"]), 8).unwrap();
        assert_eq!(indices(&assign(&first, &rules(&["80:9090"]), 8).unwrap()), [(1, true)]);
    }

    #[test]
    fn places_of_rules_that_went_come_last() {
        let first = assign(&[], &rules(&["80:8080", "81:8081"]), 3).unwrap();
        let second = assign(&first, &rules(&["82:8082", "83:8083", "81:8081"]), 3).unwrap();
        assert_eq!(indices(&second), [(2, true), (0, true), (1, false)]);
    }

    #[test]
    fn more_rules_than_places_is_none() {
        assert_eq!(assign(&[], &rules(&["80:8080", "81:8081"]), 1), None);
    }
}
