//! Whether the programs on the hook are those of this binary, on the maps that are pinned, ahead of all others.

#![forbid(unsafe_code)]

use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use rprox_common::map;

use super::{Difference, VerifyError};
use crate::loader::Error;
use crate::loader::hook::{self, Hook, clsact};
use crate::loader::host::Host;
use crate::loader::link::{LinkInfo, PinnedLink};
use crate::loader::linked::{self, Linked};
use crate::loader::mode::Shape;
use crate::loader::netlink::Device;
use crate::loader::object::{Direction, Globals, Object};
use crate::loader::pins::Pins;
use crate::loader::query::{self, Hooked};
use crate::loader::{asked, attachment};

/// Maps that every program of an attachment uses.
const SHARED: [&str; 5] =
    [map::PORTS, map::STATE, map::LOCAL_ADDRESSES, map::ADDRESS_SLOTS, map::RULE_COUNTERS];

pub(super) async fn check(host: &Host<'_>, pins: &Pins) -> Result<Vec<Difference>, Error> {
    let interface = pins.interface();
    let remedy = format!("run `rprox-loader detach -i {interface}`, and attach again");
    let shape = Shape::noted(pins);
    let hook = hook::noted(pins);
    let is_away = attachment::is_away(pins);
    if hook.is_none() && shape.has_packet_programs && !is_away {
        return Ok(vec![Difference::new("the attachment", "whole", "attaching was cut short", remedy)]);
    }
    let Some(device) = host.device_of(pins).filter(|_| !is_away) else {
        let what = format!("the interface {interface}");
        let found = "it is gone, or in another network namespace";
        return Ok(vec![Difference::new(what, "here, as it was at attaching", found, remedy)]);
    };
    let mut differences = Vec::new();
    if device.name != interface {
        let what = format!("the name of interface {interface}");
        differences.push(Difference::new(what, interface, &device.name, remedy.as_str()));
    }
    // Globals make no difference to a program's tag.
    let mut object = Object::load(&Globals::default(), &shape, 0)?;
    for linked in linked::of(&shape) {
        let built_in = linked::info(linked, &mut object)?.tag();
        differences.extend(check_linked(linked, built_in, pins, remedy.as_str()));
    }
    let Some(hook) = hook else { return Ok(differences) };
    for direction in Direction::ATTACH_ORDER {
        let built_in = object.program(direction)?.info().map_err(VerifyError::Program)?.tag();
        let mut check = Check { device, pins, direction, built_in, differences: &mut differences };
        let pinned = check.pinned();
        match hook {
            Hook::Tcx => check.tcx(pinned.as_ref())?,
            Hook::Clsact => check.clsact(host, pinned.as_ref()).await?,
        }
    }
    Ok(differences)
}

/// The check of a program that is not in the packets' path: its pin, its link, and the program in it.
fn check_linked(linked: Linked, built_in: u64, pins: &Pins, remedy: &str) -> Vec<Difference> {
    let name = linked.program();
    let Ok(pinned) = ProgramInfo::from_pin(pins.program_of(linked)) else {
        return vec![Difference::new(format!("the pin of {name}"), "a program", "there is none", remedy)];
    };
    let mut differences = Vec::new();
    if pinned.tag() != built_in {
        let expected = format!("tag {built_in:016x}, of this rprox-loader");
        differences.push(Difference::new(format!("the program {name}"), expected, told(&pinned), remedy));
    }
    match PinnedLink::open(&pins.link_of(linked)).and_then(|link| link.info()) {
        Err(error) => {
            let what = format!("the link of {name}");
            differences.push(Difference::new(what, "pinned", error.to_string(), remedy));
        }
        Ok(link) if link.program != pinned.id() => {
            let what = format!("the program in the link of {name}");
            differences.push(Difference::new(what, told(&pinned), told_by_id(link.program), remedy));
        }
        Ok(_) => {}
    }
    differences
}

/// The check of one direction.
struct Check<'a> {
    device: &'a Device,
    pins: &'a Pins,
    direction: Direction,
    /// The tag of this binary's program.
    built_in: u64,
    differences: &'a mut Vec<Difference>,
}

impl Check<'_> {
    fn differs(
        &mut self,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.differences.push(Difference::new(what, expected, found, remedy));
    }

    fn again(&self) -> String {
        let interface = self.pins.interface();
        format!("run `rprox-loader detach -i {interface}` and attach again, and find out who changed it")
    }

    /// The pinned program, checked against this binary's and against the pinned maps.
    fn pinned(&mut self) -> Option<ProgramInfo> {
        let name = self.direction.program();
        let Ok(pinned) = ProgramInfo::from_pin(self.pins.program(self.direction)) else {
            self.differs(format!("the pin of {name}"), "a program", "there is none", self.again());
            return None;
        };
        if pinned.tag() != self.built_in {
            self.differs(
                format!("the program {name}"),
                format!("tag {:016x}, of this rprox-loader", self.built_in),
                told(&pinned),
                format!(
                    "attach again with this rprox-loader, or verify with the one that attached ({})",
                    asked::noted_object(self.pins)
                        .map_or("unknown".to_owned(), |sha256| format!("object SHA-256 {sha256}"))
                ),
            );
        }
        let used = query::maps_of(&self.pins.program(self.direction)).unwrap_or_default();
        for map in SHARED {
            match map_id(&self.pins.map(map)) {
                Some(id) if used.contains(&id) => {}
                id => {
                    let found = id.map_or("no map is pinned there".to_owned(), |id| {
                        format!("the pinned map has id {id}, and the program uses {used:?}")
                    });
                    self.differs(format!("the map {map} of {name}"), "the pinned one", found, self.again());
                }
            }
        }
        Some(pinned)
    }

    /// The link, the program in it, and the programs before it.
    fn tcx(&mut self, pinned: Option<&ProgramInfo>) -> Result<(), Error> {
        let name = self.direction.program();
        let link = match PinnedLink::open(&self.pins.link(self.direction)).and_then(|link| link.info()) {
            Ok(link) => link,
            Err(error) => {
                self.differs(format!("the link of {name}"), "pinned", error.to_string(), self.again());
                return Ok(());
            }
        };
        self.link(link, pinned);
        let chain = query::tcx(self.device.index, self.direction)
            .map_err(|source| VerifyError::Query { interface: self.device.name.clone(), source })?;
        let ours = chain.iter().position(|hooked| hooked.link == link.id);
        if ours.is_none() && link.ifindex == self.device.index {
            self.differs(format!("the hook of {name}"), "its link is on it", "it is not", self.again());
        }
        for hooked in chain.iter().take(ours.unwrap_or_default()) {
            self.ahead(&told_by_id(hooked.program));
        }
        Ok(())
    }

    fn link(&mut self, link: LinkInfo, pinned: Option<&ProgramInfo>) {
        let name = self.direction.program();
        if link.ifindex != self.device.index {
            let expected = format!("index {} ({})", self.device.index, self.device.name);
            let found = match link.ifindex {
                0 => "none: it was taken off".to_owned(),
                index => format!("index {index}"),
            };
            self.differs(format!("the interface of the link of {name}"), expected, found, self.again());
        }
        let Some(pinned) = pinned else { return };
        if link.program != pinned.id() {
            let found = told_by_id(link.program);
            self.differs(format!("the program in the link of {name}"), told(pinned), found, self.again());
        }
    }

    /// The filter, its program, and the filters and TCX programs before it.
    async fn clsact(&mut self, host: &Host<'_>, pinned: Option<&ProgramInfo>) -> Result<(), Error> {
        let name = self.direction.program();
        // A kernel with TCX runs it first.
        for Hooked { program, .. } in query::tcx(self.device.index, self.direction).unwrap_or_default() {
            self.ahead(&told_by_id(program));
        }
        let chain = clsact::chain(host.netlink, self.device, self.direction, self.pins).await?;
        let Some(place) = chain.iter().position(|filter| filter.ours) else {
            self.differs(format!("the filter of {name}"), "on the interface", "it is gone", self.again());
            return Ok(());
        };
        for filter in &chain[..place] {
            self.ahead(&filter.title);
        }
        let filter = &chain[place];
        if let Some(pinned) = pinned.filter(|pinned| filter.program != Some(pinned.id())) {
            let tag = filter.tag.map_or("no program".to_owned(), |tag| format!("tag {tag:016x}"));
            let found = format!("{tag} in {}", filter.title);
            self.differs(format!("the program in the filter of {name}"), told(pinned), found, self.again());
        }
        Ok(())
    }

    fn ahead(&mut self, other: &str) {
        let (name, interface) = (self.direction.program(), &self.device.name);
        self.differs(
            format!("what is ahead of {name} on {interface}"),
            "nothing",
            other,
            "it sees packets first and may drop or change them: remove it, or have it go behind",
        );
    }
}

fn map_id(path: &Path) -> Option<u32> {
    MapInfo::from_pin(path).ok().map(|map| map.id())
}

/// A program by what the kernel knows of it.
fn told(program: &ProgramInfo) -> String {
    let name = program.name_as_str().unwrap_or("?");
    format!("{name}, tag {:016x}, id {}", program.tag(), program.id())
}

/// The same, for a program that we have no handle on; the kernel tells that only to `CAP_SYS_ADMIN`.
fn told_by_id(id: u32) -> String {
    let found = loaded_programs().flatten().find(|program| program.id() == id);
    found.map_or_else(|| format!("program with id {id}"), |program| told(&program))
}
