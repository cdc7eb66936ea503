//! `rprox-loader status`: what is attached, read from the pins alone.

#![forbid(unsafe_code)]

pub mod watch;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use aya::programs::ProgramInfo;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use super::bpffs::Bpffs;
use super::config::Direct;
use super::hook::{self, Hook};
use super::host::Host;
use super::linked;
use super::maps::{Maps, MapsError};
use super::mode::{Mode, Shape};
use super::netlink::Netlink;
use super::object::Direction;
use super::pins::{PinError, Pins};
use super::rule::{Rule, protocol_name};
use super::slots::Slot;
use super::{Error, asked, attachment};

/// An attachment as `status` shows it. The JSON form is documented in `status --help`; fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Attachment {
    pub(super) interface: String,
    mode: Mode,
    reason: String,
    owner: Option<u32>,
    hook: Option<Hook>,
    pub(super) state: Condition,
    service: bool,
    direct: Option<Direct>,
    programs: ByDirection<Option<String>>,
    object_sha256: Option<String>,
    pub(super) local_addresses: usize,
    pub(super) not_parsed: ByDirection<u64>,
    pub(super) rules: Vec<RuleStatus>,
}

/// How an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Condition {
    /// On its interface.
    Attached,
    /// Its interface is gone.
    Gone,
    /// In another network namespace than this process.
    Elsewhere,
    /// What an attempt to attach or detach has left.
    Incomplete,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ByDirection<T> {
    pub(super) ingress: T,
    pub(super) egress: T,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Traffic {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) icmp_errors: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct RuleStatus {
    pub(super) rule: Rule,
    from: u16,
    to: u16,
    protocol: &'static str,
    pub(super) connections: u64,
    pub(super) refused_direct: u64,
    /// Whether packets and bytes are the rule's traffic: what is steered or granted passes no program that counts.
    pub(super) packets_counted: bool,
    pub(super) ingress: Traffic,
    pub(super) egress: Traffic,
}

/// Reads every attachment under `bpffs`.
///
/// # Errors
///
/// The kernel refused.
pub async fn read(netlink: &Netlink, bpffs: &Path) -> Result<Vec<Attachment>, Error> {
    // Locked, so that no loader is half-way through a change.
    let Some(bpffs) = Bpffs::open(bpffs)? else { return Ok(Vec::new()) };
    let host = Host::look(netlink, bpffs.path()).await?;
    Pins::list(bpffs.path())?.iter().map(|pins| read_one(&host, pins)).collect()
}

fn read_one(host: &Host<'_>, pins: &Pins) -> Result<Attachment, Error> {
    let tag = |direction| {
        let info = ProgramInfo::from_pin(pins.program(direction)).ok()?;
        Some(format!("{:016x}", info.tag()))
    };
    let shape = Shape::noted(pins);
    let mut status = Attachment {
        interface: pins.interface().to_owned(),
        mode: shape.mode,
        reason: shape.reason,
        owner: shape.owner.user(),
        hook: hook::noted(pins),
        state: condition(host, pins),
        service: matches!(pins.claim(), Err(PinError::Held { .. })),
        direct: None,
        programs: ByDirection { ingress: tag(Direction::Ingress), egress: tag(Direction::Egress) },
        object_sha256: asked::noted_object(pins),
        local_addresses: 0,
        not_parsed: ByDirection::default(),
        rules: Vec::new(),
    };
    let maps = match Maps::open(pins) {
        Ok(maps) => maps,
        Err(_) if status.state == Condition::Incomplete => return Ok(status),
        Err(error) => return Err(error.into()),
    };
    let state = maps.state()?;
    let counters = maps.counters()?;
    status.direct = Some(if state.allow_direct() { Direct::Allow } else { Direct::Deny });
    status.local_addresses = maps.addresses()?.len();
    status.not_parsed =
        ByDirection { ingress: counters.ingress_not_parsed, egress: counters.egress_not_parsed };
    status.rules = maps
        .rules(state.generation())?
        .iter()
        .map(|slot| rule(&maps, slot, status.mode))
        .collect::<Result<_, _>>()?;
    // Attaching ends with putting the rules in force, and detaching begins with putting them out of it.
    if status.rules.is_empty() {
        status.state = Condition::Incomplete;
    }
    Ok(status)
}

fn condition(host: &Host<'_>, pins: &Pins) -> Condition {
    let shape = Shape::noted(pins);
    let in_path = Direction::ATTACH_ORDER.into_iter().all(|direction| {
        pins.program(direction).exists()
            && (hook::noted(pins) != Some(Hook::Tcx) || pins.link(direction).exists())
    });
    let whole = (in_path || !shape.has_packet_programs)
        && linked::of(&shape).all(|linked| pins.link_of(linked).exists());
    match pins.noted_device() {
        Some(_) if attachment::is_away(pins) => Condition::Gone,
        Some(device) if whole && device.netns != host.netns => Condition::Elsewhere,
        Some(_) if whole && host.device_of(pins).is_some() => Condition::Attached,
        Some(_) if whole => Condition::Gone,
        _ => Condition::Incomplete,
    }
}

fn rule(maps: &Maps, slot: &Slot, mode: Mode) -> Result<RuleStatus, MapsError> {
    let counters = maps.rule_counters(slot.index)?;
    Ok(RuleStatus {
        rule: slot.rule,
        from: slot.rule.from,
        to: slot.rule.to,
        protocol: protocol_name(slot.rule.protocol),
        connections: counters.connections,
        refused_direct: counters.refused_direct,
        packets_counted: mode.counts_packets(slot.rule.protocol),
        ingress: Traffic {
            packets: counters.ingress_packets,
            bytes: counters.ingress_bytes,
            icmp_errors: counters.ingress_errors,
        },
        egress: Traffic {
            packets: counters.egress_packets,
            bytes: counters.egress_bytes,
            icmp_errors: counters.egress_errors,
        },
    })
}

/// Writes `attachments` as JSON.
///
/// # Errors
///
/// What writing gave.
pub fn write_json(mut out: impl Write, attachments: &[Attachment]) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, attachments)?;
    writeln!(out)
}

/// Writes `attachments` for people.
///
/// # Errors
///
/// What writing gave.
pub fn write_table(mut out: impl Write, attachments: &[Attachment]) -> io::Result<()> {
    if attachments.is_empty() {
        return writeln!(out, "nothing attached");
    }
    for (place, attachment) in attachments.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", attachment.headline())?;
        writeln!(out, "{}", attachment.table())?;
        if let Some(remark) = attachment.remark() {
            writeln!(out, "{remark}")?;
        }
    }
    Ok(())
}

impl Attachment {
    fn headline(&self) -> String {
        let mut line = format!("{}: {}", self.interface, self.mode);
        if let Some(hook) = self.hook {
            _ = write!(line, " by {hook}");
        }
        line.push_str(match self.state {
            Condition::Attached => "",
            Condition::Gone => "  NOT IN FORCE: the interface is gone",
            Condition::Elsewhere => "  in another network namespace",
            Condition::Incomplete => "  NOT IN FORCE: attaching or detaching was cut short",
        });
        let direct = match self.direct {
            Some(Direct::Allow) => "allowed",
            Some(Direct::Deny) => "denied",
            None => "unknown",
        };
        let absent = if self.hook.is_some() { "missing" } else { "none" };
        let tag = |tag: &Option<String>| tag.clone().unwrap_or_else(|| absent.to_owned());
        let owner = self.owner.map_or_else(|| "any (no port guard)".to_owned(), |owner| owner.to_string());
        _ = write!(line, "\n  mode {}: {}  owner {owner}\n", self.mode, self.reason);
        _ = write!(
            line,
            "  service {}  direct {direct}  local addresses {}  not parsed {}/{}\n  programs: ingress {}, egress {}; object \
             SHA-256 {}",
            if self.service { "running" } else { "none" },
            self.local_addresses,
            self.not_parsed.ingress,
            self.not_parsed.egress,
            tag(&self.programs.ingress),
            tag(&self.programs.egress),
            self.object_sha256.as_deref().unwrap_or("unknown"),
        );
        line
    }

    /// What the table can't show.
    pub(super) fn remark(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Rewrite => None,
            Mode::Steer => {
                Some("not counted: steered connections don't pass a program, only their beginning does")
            }
            Mode::Grant => Some("not counted: nothing is redirected, so no program is in the packets' path"),
        }
        .filter(|_| self.rules.iter().any(|rule| !rule.packets_counted))
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_preset(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header([
                "rule",
                "packets in",
                "bytes in",
                "packets out",
                "bytes out",
                "connections",
                "refused direct",
            ]);
        for rule in &self.rules {
            let traffic = [rule.ingress.packets, rule.ingress.bytes, rule.egress.packets, rule.egress.bytes];
            let totals = [rule.connections, rule.refused_direct].map(|number| number.to_string());
            table.add_row(
                std::iter::once(rule.rule.to_string())
                    .chain(traffic.map(|number| rule.counted(number)))
                    .chain(totals),
            );
        }
        numbers_to_the_right(&mut table);
        table
    }
}

impl RuleStatus {
    /// A number of packets or bytes as a table shows it.
    pub(super) fn counted(&self, number: u64) -> String {
        if self.packets_counted { number.to_string() } else { "not counted".to_owned() }
    }
}

fn numbers_to_the_right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
