//! The ACME server: whether it answers, and whether its clock and ours agree.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use crate::findings::Finding;

/// Answers take a moment, and a `Date` has whole seconds.
const AGREES: Duration = Duration::from_secs(30);
/// From here on a new certificate isn't valid yet for us, or a valid one has ended.
const TOO_FAR: Duration = Duration::from_hours(1);

/// `answer`: the date of the answer of the server's `directory`, if it says one, or why there is none.
pub(super) fn check(
    directory: &str,
    answer: &Result<Option<SystemTime>, String>,
    now: SystemTime,
) -> Vec<Finding> {
    let check = "acme";
    let there = match answer {
        Err(reason) => {
            let remedy = "see that this host reaches it (names, firewall, proxy), and that acme.directory and acme.ca are right";
            return vec![Finding::fault(check, format!("{directory}: {reason}"), remedy)];
        }
        Ok(None) => return vec![Finding::fine(check, format!("{directory} answers"))],
        Ok(Some(there)) => *there,
    };
    let (skew, way) = match now.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let found = format!("this host's clock is {} s {way} the ACME server's", skew.as_secs());
    let remedy = "set the clock: `sudo timedatectl set-ntp true`";
    let clock = match skew {
        skew if skew <= AGREES => Finding::fine("clock", "as the ACME server's"),
        skew if skew < TOO_FAR => Finding::warning("clock", found, remedy),
        _ => Finding::fault(
            "clock",
            format!("{found}: new certificates are refused, or renewed at the wrong time"),
            remedy,
        ),
    };
    vec![Finding::fine(check, format!("{directory} answers")), clock]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{self, Fault, Fine, Warning};

    #[test]
    fn the_further_the_clock_the_worse() {
        let now = SystemTime::now();
        let of = |there| -> Vec<Severity> {
            check("https://acme.test/dir", &Ok(Some(there)), now)
                .iter()
                .map(|finding| finding.severity)
                .collect()
        };
        assert_eq!(of(now), [Fine, Fine]);
        assert_eq!(of(now + Duration::from_mins(5)), [Fine, Warning]);
        assert_eq!(of(now - Duration::from_hours(2)), [Fine, Fault]);
        let ahead = check("d", &Ok(Some(now - Duration::from_mins(2))), now);
        assert_eq!(ahead[1].found, "this host's clock is 120 s ahead of the ACME server's");
        assert_eq!(check("d", &Ok(None), now)[0].severity, Fine);
        assert_eq!(check("d", &Err("refused".to_owned()), now)[0].severity, Fault);
    }
}
