//! `rprox-loader verify`: whether what is in the kernel is what this binary holds and what was asked for.
//!
//! Everything is read from the kernel anew: the program that is on the hook now, the order of programs on the interface, every
//! entry of the maps. What differs is named with what to do; nothing is changed.

#![forbid(unsafe_code)]

mod addresses;
mod globals;
mod ownership;
mod programs;
mod rules;

use std::io::{self, Write};

use aya::maps::MapError;
use serde::Serialize;
use thiserror::Error;

use self::globals::Seen;
use super::asked::{self, Asked};
use super::bpffs::Bpffs;
use super::config::Settings;
use super::host::Host;
use super::maps::Maps;
use super::mode::Shape;
use super::netlink::Netlink;
use super::object;
use super::pins::Pins;

/// What the kernel did not let `verify` see.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// A program could not be asked for.
    #[error("asking for a program's details: {0}")]
    Program(#[from] aya::programs::ProgramError),
    /// The kernel does not show globals.
    #[error("reading the globals of {program}: {source}")]
    Globals {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// The kernel does not say what is on a hook.
    #[error("asking which programs are on {interface}: {source}")]
    Query {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs.
    pub what: String,
    /// How it should be.
    pub expected: String,
    /// How it is.
    pub found: String,
    /// What the operator can do.
    pub remedy: String,
}

impl Difference {
    fn new(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), expected: expected.into(), found: found.into(), remedy: remedy.into() }
    }
}

/// What was found of one attachment.
#[derive(Debug, Serialize)]
struct Checked {
    interface: String,
    ok: bool,
    /// Whether the kernel showed the programs' globals.
    globals_seen: bool,
    differences: Vec<Difference>,
}

/// What `verify` found. The JSON form is documented in `verify --help`; fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Report {
    ok: bool,
    /// The SHA-256 of the kernel programs' object in this binary.
    object_sha256: &'static str,
    attachments: Vec<Checked>,
}

/// What to compare with.
pub struct Expectation {
    /// The configuration, and the flags.
    pub settings: Settings,
    /// Whether the operator gave rules; otherwise those count that were written down at attaching.
    pub rules_given: bool,
    /// The same of the direct policy.
    pub direct_given: bool,
}

impl Expectation {
    /// What is asked of `pins`; `None` where nobody said and nothing was written down.
    fn of(&self, pins: &Pins) -> Option<Asked> {
        let own = self.settings.interfaces.iter().find(|(name, _)| name == pins.interface());
        let given = Asked::from(own.map_or(&self.settings.default_policy, |(_, policy)| policy));
        let noted = asked::noted(pins);
        match (self.rules_given, self.direct_given) {
            (true, true) => Some(given),
            (true, false) => {
                Some(Asked { direct: noted.map_or(given.direct, |noted| noted.direct), ..given })
            }
            (false, true) => Some(Asked { direct: given.direct, ..noted? }),
            (false, false) => noted,
        }
    }
}

/// Looks at every attachment that `expectation` names, or at all.
///
/// # Errors
///
/// The kernel does not let us look.
pub async fn verify(netlink: &Netlink, expectation: &Expectation) -> Result<Report, super::Error> {
    let settings = &expectation.settings;
    // Locked, so that no loader is half-way through a change.
    let bpffs = Bpffs::open(&settings.bpffs)?;
    let host = Host::look(netlink, &settings.bpffs).await?;
    let attached = bpffs.as_ref().map_or(Ok(Vec::new()), |bpffs| Pins::list(bpffs.path()))?;
    let chosen = if settings.interfaces.is_empty() {
        attached
    } else {
        settings.interfaces.iter().map(|(name, _)| Pins::new(&settings.bpffs, name)).collect()
    };
    let mut attachments = Vec::new();
    for pins in chosen {
        let mut differences = attachment(&host, &pins, expectation).await?;
        let seen = globals::check(&host, &pins, &mut differences)?;
        attachments.push(Checked {
            interface: pins.interface().to_owned(),
            ok: differences.is_empty(),
            globals_seen: seen == Seen::All,
            differences,
        });
    }
    let ok = attachments.iter().all(|checked| checked.ok);
    Ok(Report { ok, object_sha256: object::SHA256, attachments })
}

async fn attachment(
    host: &Host<'_>,
    pins: &Pins,
    expectation: &Expectation,
) -> Result<Vec<Difference>, super::Error> {
    let interface = pins.interface();
    let again = format!("run `rprox-loader attach -i {interface}` with the rules you want");
    if !pins.exist() {
        let what = format!("the attachment of {interface}");
        return Ok(vec![Difference::new(what, "attached", "nothing is pinned", again)]);
    }
    let mut differences = ownership::check(pins)?;
    differences.extend(programs::check(host, pins).await?);
    let maps = match Maps::open(pins) {
        Ok(maps) => maps,
        Err(error) => {
            let remedy = format!("run `rprox-loader detach -i {interface}`, and attach again");
            differences.push(Difference::new(
                "the maps",
                "as this build makes them",
                error.to_string(),
                remedy,
            ));
            return Ok(differences);
        }
    };
    let to_steer = super::attachment::is_tcp_left_to_steer(pins, &Shape::noted(pins));
    let asked = expectation.of(pins);
    if asked.is_none() {
        differences.push(Difference::new(
            "the rules asked for",
            "written down beside the pins",
            "nothing sound is",
            format!("{again}, or tell `verify` what to expect (-c, -r)"),
        ));
    }
    differences.extend(rules::check(interface, &maps, asked.as_ref(), to_steer)?);
    differences.extend(addresses::check(host, &maps, interface)?);
    Ok(differences)
}

impl Report {
    /// Whether nothing differs.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.ok
    }

    /// How many differences each interface's attachment has.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.attachments.iter().map(|checked| (checked.interface.as_str(), checked.differences.len()))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    /// Writes it for people.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        if self.attachments.is_empty() {
            return writeln!(out, "nothing attached");
        }
        for Checked { interface, differences, .. } in &self.attachments {
            if differences.is_empty() {
                writeln!(out, "{interface}: as it should be")?;
                continue;
            }
            writeln!(out, "{interface}: {} differ", differences.len())?;
            for Difference { what, expected, found, remedy } in differences {
                writeln!(
                    out,
                    "  {what}\n    expected: {expected}\n    found:    {found}\n    to do:    {remedy}"
                )?;
            }
        }
        if self.attachments.iter().any(|checked| !checked.globals_seen) {
            writeln!(
                out,
                "the programs' globals were not compared: the kernel shows them to CAP_SYS_ADMIN alone"
            )?;
        }
        writeln!(out, "kernel programs of this rprox-loader: SHA-256 {}", self.object_sha256)
    }
}
