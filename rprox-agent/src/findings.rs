//! What `doctor` of either program found, and how it is written.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It works, but worse than it could, or not in every case.
    Warning,
    /// Something will not work.
    Fault,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked, in a word or two: `kernel`, `port 8080`.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What to do; `None` where it is fine.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn fine(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), severity: Severity::Fine, found: found.into(), remedy: None }
    }

    /// It works, but worse than it could, or not in every case.
    #[must_use]
    pub fn warning(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, remedy: Some(remedy.into()), ..Self::fine(check, found) }
    }

    /// Something will not work.
    #[must_use]
    pub fn fault(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Fault, ..Self::warning(check, found, remedy) }
    }
}

/// All of them. The JSON form is documented in `doctor --help`; fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Findings {
    ok: bool,
    findings: Vec<Finding>,
}

impl Findings {
    /// These, in the order in which they were looked for; each once, as two interfaces may have the same ports.
    #[must_use]
    pub fn new(all: Vec<Finding>) -> Self {
        let mut findings: Vec<Finding> = Vec::with_capacity(all.len());
        for finding in all {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        let ok = findings.iter().all(|finding| finding.severity != Severity::Fault);
        Self { ok, findings }
    }

    /// Whether there is no fault.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.ok
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Writes them as JSON.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    /// Writes them for people.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        for Finding { check, severity, found, remedy } in &self.findings {
            writeln!(out, "{:<8} {check}: {found}", severity.name())?;
            if let Some(remedy) = remedy {
                writeln!(out, "{:8} to do: {remedy}", "")?;
            }
        }
        let [faults, warnings] = [Severity::Fault, Severity::Warning].map(|severity| self.count(severity));
        match (faults, warnings) {
            (0, 0) => writeln!(out, "\nnothing to do"),
            _ => writeln!(out, "\nfaults: {faults}, warnings: {warnings}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(findings: &Findings) -> String {
        let mut text = Vec::new();
        findings.write_text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_finding_says_what_to_do_and_only_faults_are_not_ok() {
        let mut all = vec![Finding::fine("kernel", "Linux 6.18")];
        assert_eq!(text(&Findings::new(all.clone())), "fine     kernel: Linux 6.18\n\nnothing to do\n");
        all.push(Finding::warning("jit", "off", "switch it on"));
        assert!(Findings::new(all.clone()).ok());
        all.push(Finding::fault("bpffs", "none", "mount one"));
        let findings = Findings::new(all);
        assert!(!findings.ok());
        assert_eq!(
            text(&findings),
            "fine     kernel: Linux 6.18\nwarning  jit: off\n         to do: switch it on\nfault    bpffs: none\n         \
             to do: mount one\n\nfaults: 1, warnings: 1\n"
        );
        let mut json = Vec::new();
        findings.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json["ok"], &json["findings"][1]["severity"]), (&false.into(), &"warning".into()));
        assert_eq!(json["findings"][0]["remedy"], serde_json::Value::Null);
    }
}
