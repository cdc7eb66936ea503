//! Certificates: readable, and for how long clients take them.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::SystemTime;

use crate::findings::Finding;
use crate::proxy::tls::Certificate;

/// What is to be said of the certificate in `file`, which is `loaded`, or why it can't be.
pub(super) fn check(file: &Path, loaded: Result<&Certificate, String>, now: SystemTime) -> Vec<Finding> {
    let check = format!("certificate {}", file.display());
    match loaded {
        Err(reason) => {
            vec![Finding::fault(check, reason, "correct the files, or their names in the configuration")]
        }
        Ok(certificate) => {
            lifetime(&check, certificate.not_before, certificate.not_after, &certificate.warnings, now)
        }
    }
}

/// `warnings` are of a lifetime that ends soon or is over, and of a key that others can read.
fn lifetime(
    check: &str,
    from: SystemTime,
    until: SystemTime,
    warnings: &[String],
    now: SystemTime,
) -> Vec<Finding> {
    let is_valid = from <= now && now < until;
    let mut findings: Vec<Finding> = warnings
        .iter()
        .map(|warning| match warning.split_once("; run: ") {
            Some((found, command)) => Finding::warning(check, found, format!("run `{command}`")),
            None if is_valid => {
                Finding::warning(check, warning, "renew it; the agent loads it when the file changes")
            }
            None => Finding::fault(check, warning, "renew it, if this host's clock is right (`timedatectl`)"),
        })
        .collect();
    if findings.is_empty() {
        let days = until.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        findings.push(Finding::fine(check, format!("good for {days} days")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};

    #[test]
    fn an_expired_certificate_is_a_fault_and_one_that_ends_soon_a_warning() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        let of = |until, warning: Option<&str>| {
            let warnings: Vec<String> = warning.iter().map(ToString::to_string).collect();
            lifetime("certificate a.pem", now - day, until, &warnings, now).remove(0)
        };
        assert_eq!(of(now + day * 30 + day / 2, None).found, "good for 30 days");
        assert_eq!(of(now + day, None).severity, Fine);
        assert_eq!(of(now + day, Some("ends soon")).severity, Warning);
        assert_eq!(of(now - day / 2, Some("expired")).severity, Fault);
        let open = of(now + day * 30, Some("a.key: every local user can use it; run: chmod o= a.key"));
        assert_eq!((open.severity, open.remedy.as_deref()), (Warning, Some("run `chmod o= a.key`")));
        let missing = check(Path::new("b.pem"), Err("no such file".to_owned()), now);
        assert_eq!(missing[0].severity, Fault);
    }
}
