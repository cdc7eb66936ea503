//! Whether the programs were told what they should be: their read-only globals. A program's tag doesn't tell them apart, and what
//! the loader wrote down beside the pins is not what the kernel holds.

#![forbid(unsafe_code)]

use std::io;

use aya::maps::{MapData, MapError, MapInfo};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};
use rprox_common::global;

use super::{Difference, VerifyError};
use crate::loader::Error;
use crate::loader::attachment;
use crate::loader::host::Host;
use crate::loader::kernel_log;
use crate::loader::linked;
use crate::loader::mode::Shape;
use crate::loader::object::{self as kernel_object, Direction, Globals};
use crate::loader::pins::Pins;
use crate::loader::query;

/// The map that holds them, as the kernel names it.
const RODATA: &str = ".rodata";

/// Whether the kernel lets this process see globals.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It does.
    All,
    /// It shows them to `CAP_SYS_ADMIN` alone.
    None,
}

pub(super) fn check(host: &Host<'_>, pins: &Pins, differences: &mut Vec<Difference>) -> Result<Seen, Error> {
    let Some(device) = host.device_of(pins).filter(|_| !attachment::is_away(pins)) else {
        return Ok(Seen::All);
    };
    let remedy = format!("run `rprox-loader detach -i {}`, and attach again", pins.interface());
    let shape = Shape::noted(pins);
    let Some(expected) = attachment::noted_globals(pins, device, &shape)? else {
        let expected = "written down beside the pins";
        let found = "they are not: changing the programs was cut short";
        differences.push(Difference::new("the programs' globals", expected, found, remedy));
        return Ok(Seen::All);
    };
    let in_path = Direction::ATTACH_ORDER.into_iter().filter(|_| shape.has_packet_programs);
    let programs = in_path
        .map(|direction| (direction.program(), pins.program(direction)))
        .chain(linked::of(&shape).map(|linked| (linked.program(), pins.program_of(linked))));
    for (name, pin) in programs {
        // That a pin is missing is found elsewhere.
        let Ok(maps) = query::maps_of(&pin) else { continue };
        let data = match rodata(&maps) {
            Err(error) if is_denied(&error) => return Ok(Seen::None),
            data => {
                data.map_err(|source| VerifyError::Globals { program: name, source: Box::new(source) })?
            }
        };
        for (global, expected, found) in compare(&expected, kernel_log::noted(pins), data.as_deref()) {
            let what = format!("the global {global} of {name}");
            differences.push(Difference::new(what, expected, found, &remedy));
        }
    }
    Ok(Seen::All)
}

/// The bytes of the one of `maps` that holds globals; `None` where the program has none.
fn rodata(maps: &[u32]) -> Result<Option<Vec<u8>>, MapError> {
    for &id in maps {
        let info = MapInfo::from_id(id)?;
        if info.name_as_str() == Some(RODATA) {
            return query::first_value(&MapData::from_id(id)?, info.value_size())
                .map(Some)
                .map_err(MapError::from);
        }
    }
    Ok(None)
}

fn is_denied(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::PermissionDenied)
}

/// The globals in `data` that are not as they should be, each with how it should be and how it is.
fn compare(expected: &Globals, log_one_in: u32, data: Option<&[u8]>) -> Vec<(&'static str, String, String)> {
    let Some(data) = data else { return Vec::new() };
    let Ok(file) = ElfFile64::<object::LittleEndian>::parse(kernel_object::bytes()) else {
        return Vec::new();
    };
    let value = |name: &str| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name))?;
        let place = usize::try_from(symbol.address()).ok()?;
        let bytes = data.get(place..place + usize::try_from(symbol.size()).ok()?)?;
        Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    [
        (global::LINK_HEADER_LEN, u64::from(expected.link_header_len)),
        (global::LOG_ONE_IN, log_one_in.into()),
        (global::INTERFACE, expected.interface.into()),
        (global::NETNS_COOKIE, expected.netns_cookie),
        (global::OWNER, expected.owner.into()),
        (global::GRANT, expected.grant.into()),
        (global::REWRITE_TCP, (expected.rewrite_tcp as u32).into()),
    ]
    .into_iter()
    .filter_map(|(name, expected)| match value(name) {
        Some(found) if found == expected => None,
        Some(found) => Some((name, expected.to_string(), found.to_string())),
        None => Some((name, expected.to_string(), "missing".to_owned())),
    })
    .collect()
}
