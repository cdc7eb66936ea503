//! `rprox-loader status --watch`: the status every second, with what went through in between.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use tokio::time::{MissedTickBehavior, interval};

use super::{Attachment, RuleStatus, numbers_to_the_right, read};
use crate::loader::Error;
use crate::loader::netlink::Netlink;
use crate::loader::rule::Rule;

const REFRESH: Duration = Duration::from_secs(1);
/// Moves to the upper left corner and clears the screen (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The counters of every rule at a moment.
struct Snapshot {
    taken: Instant,
    rules: HashMap<(String, Rule), RuleStatus>,
}

impl Snapshot {
    fn of(attachments: &[Attachment]) -> Self {
        let rules = attachments.iter().flat_map(|attachment| {
            attachment.rules.iter().map(|rule| ((attachment.interface.clone(), rule.rule), *rule))
        });
        Self { taken: Instant::now(), rules: rules.collect() }
    }
}

/// Shows the attachments until Ctrl-C, or until nobody reads on: drawn anew in place at a terminal, else one after another.
///
/// # Errors
///
/// The kernel refused.
pub async fn watch(netlink: &Netlink, bpffs: &Path) -> Result<(), Error> {
    let terminal = io::stdout().is_terminal();
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Snapshot> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            interrupt = tokio::signal::ctrl_c() => return interrupt.map_err(Error::Watch),
        }
        let attachments = read(netlink, bpffs).await?;
        let now = Snapshot::of(&attachments);
        let mut text = if terminal { CLEAR.to_owned() } else { String::new() };
        draw(&mut text, &attachments, &now, before.as_ref());
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(Error::Watch)?,
        }
        before = Some(now);
    }
}

fn draw(text: &mut String, attachments: &[Attachment], now: &Snapshot, before: Option<&Snapshot>) {
    if attachments.is_empty() {
        text.push_str("nothing attached\n");
    }
    for attachment in attachments {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "rule",
            "packets in/s",
            "bytes in/s",
            "packets out/s",
            "bytes out/s",
            "connections/s",
            "connections",
            "refused direct",
        ]);
        for rule in &attachment.rules {
            let old = before.and_then(|before| {
                let rule = before.rules.get(&(attachment.interface.clone(), rule.rule))?;
                Some((rule, now.taken - before.taken))
            });
            table.add_row(row(rule, old));
        }
        numbers_to_the_right(&mut table);
        _ = writeln!(text, "{}\n{table}", attachment.headline());
        _ = writeln!(text, "{}\n", attachment.remark().unwrap_or_default());
    }
}

fn row(rule: &RuleStatus, old: Option<(&RuleStatus, Duration)>) -> Vec<String> {
    let traffic: [fn(&RuleStatus) -> u64; 4] = [
        |rule| rule.ingress.packets,
        |rule| rule.ingress.bytes,
        |rule| rule.egress.packets,
        |rule| rule.egress.bytes,
    ];
    let rate = |counter: fn(&RuleStatus) -> u64| {
        old.map(|(old, time)| per_second(counter(old), counter(rule), time))
    };
    let shown = |rate: Option<u64>| rate.map_or("-".to_owned(), |rate| rate.to_string());
    let mut row = vec![rule.rule.to_string()];
    row.extend(traffic.map(|counter| rate(counter).map_or("-".to_owned(), |rate| rule.counted(rate))));
    row.push(shown(rate(|rule| rule.connections)));
    row.extend([rule.connections.to_string(), rule.refused_direct.to_string()]);
    row
}

/// How fast a counter went up. One that went down was begun anew.
fn per_second(old: u64, new: u64, time: Duration) -> u64 {
    let more = u128::from(new.checked_sub(old).unwrap_or(new));
    let rate = (more * 1_000_000 + time.as_micros() / 2).checked_div(time.as_micros()).unwrap_or_default();
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_one_second() {
        let half = Duration::from_millis(500);
        assert_eq!(per_second(10, 20, half), 20);
        assert_eq!(per_second(10, 10, half), 0);
        // Attached anew in between.
        assert_eq!(per_second(1_000, 4, half), 8);
        assert_eq!(per_second(0, u64::MAX, Duration::from_secs(1)), u64::MAX);
        assert_eq!(per_second(0, 5, Duration::ZERO), 0);
    }
}
