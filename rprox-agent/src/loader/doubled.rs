//! Attachments of an interface whose pins are not under this bpffs: under another one, or under one that another is mounted over.
//!
//! Two on one interface undo each other: the first changes a packet's port to TO, and the second takes that for a direct connection.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, MapInfo};
use aya::programs::{ProgramInfo, loaded_programs};
use rprox_common::{PORT_TABLE_LEN, PortEntries, PortEntry, PortKind, Protocol, State, map, port_index};
use thiserror::Error;
use tracing::debug;

use super::link::PinnedLink;
use super::netlink::Device;
use super::object::Direction;
use super::pins::Pins;
use super::rule::{Rule, protocol_name};
use super::{query, table};

/// An interface redirects the same port by an attachment that is pinned elsewhere.
#[derive(Debug, Error)]
#[error(
    "{interface}: port {port}/{protocol} is redirected there already, by an attachment that is not pinned under {bpffs} (program \
     {program}), and each would refuse what the other has redirected; run `rprox-loader detach -i {interface} --bpffs DIR` with the \
     one it is pinned under, or unmount what was mounted over it",
    bpffs = bpffs.display()
)]
pub struct DoubledError {
    interface: String,
    port: u16,
    protocol: &'static str,
    bpffs: PathBuf,
    program: u32,
}

/// Looks for such an attachment on `device`, as far as the kernel shows it: other programs' maps it shows to `CAP_SYS_ADMIN` alone.
///
/// # Errors
///
/// There is one that names a port of `rules`.
pub fn check(bpffs: &Path, device: &Device, rules: &[Rule]) -> Result<(), DoubledError> {
    let pins = Pins::new(bpffs, &device.name);
    // One direction tells: no attachment has one alone.
    let direction = Direction::Ingress;
    let own = PinnedLink::open(&pins.link(direction)).and_then(|link| link.info()).ok();
    let hooked = query::tcx(device.index, direction).unwrap_or_default();
    let others: Vec<u32> = hooked
        .iter()
        .filter(|hooked| own.is_none_or(|own| own.id != hooked.link))
        .map(|hooked| hooked.program)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    for program in loaded_programs().flatten().filter(|program| others.contains(&program.id())) {
        if program.name_as_str() != Some(direction.program()) {
            continue;
        }
        let doubled = Redirected::by(&program).map(|redirected| {
            rules
                .iter()
                .flat_map(|rule| [(rule.protocol, rule.from), (rule.protocol, rule.to)])
                .find(|(protocol, port)| redirected.names(*protocol, *port))
        });
        match doubled {
            Ok(None) => {}
            Ok(Some((protocol, port))) => {
                return Err(DoubledError {
                    interface: device.name.clone(),
                    port,
                    protocol: protocol_name(protocol),
                    bpffs: bpffs.to_owned(),
                    program: program.id(),
                });
            }
            Err(error) => debug!("{}: the maps of program {}: {error}", device.name, program.id()),
        }
    }
    Ok(())
}

/// The rules that a program reads.
struct Redirected {
    entries: Vec<PortEntries>,
    generation: usize,
}

impl Redirected {
    fn by(program: &ProgramInfo) -> Result<Self, Box<dyn std::error::Error>> {
        let ids = program.map_ids()?.ok_or("the kernel doesn't tell which")?;
        let find = |name: &str| {
            let is_it = |id: &u32| MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str() == Some(name));
            ids.iter().copied().find(is_it).ok_or_else(|| format!("there is no {name}"))
        };
        // Of another layout neither can be read.
        let ports = find(map::PORTS)?;
        let array: Array<MapData, PortEntries> = open(ports)?;
        if array.len() != PORT_TABLE_LEN {
            return Err("the rule table has another size".into());
        }
        let entries = table::read(&MapData::from_id(ports)?, PORT_TABLE_LEN)?;
        let state: Array<MapData, State> = open(find(map::STATE)?)?;
        Ok(Self { entries, generation: usize::from(state.get(&0, 0)?.generation() != 0) })
    }

    fn names(&self, protocol: Protocol, port: u16) -> bool {
        let place = usize::try_from(port_index(protocol, port)).ok();
        let entries = place.and_then(|place| self.entries.get(place));
        let entry = entries.map_or(PortEntry::default(), |entries| entries.0[self.generation]);
        entry.kind() != PortKind::None
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(id: u32) -> Result<M, MapError> {
    MapData::from_id(id).and_then(Map::from_map_data).and_then(M::try_from)
}
