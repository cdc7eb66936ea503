//! An attachment's maps as the loader reads and writes them.

#![forbid(unsafe_code)]

mod addresses;

use std::collections::BTreeMap;
use std::io;
use std::ops::AddAssign;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use rprox_common::{
    ADDRESS_SLOTS, Address, AddressSlot, AttachmentCounters, MAX_LOCAL_ADDRESSES, PORT_TABLE_LEN,
    PortEntries, PortEntry, PortKind, Protocol, RuleCounters, State, map, port_index,
};
use thiserror::Error;

use super::pins::Pins;
use super::rule::Rule;
use super::slots::Slot;
use super::table;

/// What went wrong with a map.
#[derive(Debug, Error)]
pub enum MapsError {
    /// A map is missing or of another shape.
    #[error(
        "{interface}: the pinned map {map} does not fit this rprox-loader ({source}); run `rprox-loader detach -i {interface}` \
         and attach again"
    )]
    Unfit {
        /// The interface.
        interface: String,
        /// The map.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// The kernel refused an operation.
    #[error("{interface}: {action} the map {map}: {source}")]
    Access {
        /// The interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// The kernel does not show a map's entries.
    #[error("{interface}: reading the map {map}: {source}")]
    Read {
        /// The interface.
        interface: String,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The attachment was made for fewer rules.
    #[error(
        "{interface}: {wanted} rules, and this attachment was made with room for {capacity}; run `rprox-loader detach -i \
         {interface}` and attach again"
    )]
    NoRoom {
        /// The interface.
        interface: String,
        /// Rules asked for.
        wanted: usize,
        /// Rules that fit.
        capacity: u32,
    },
    /// The host has more addresses than fit.
    #[error("this host has {0} addresses, and an attachment knows at most {MAX_LOCAL_ADDRESSES}")]
    TooManyAddresses(usize),
}

/// The maps of one attachment.
pub struct Maps {
    interface: String,
    ports: Array<MapData, PortEntries>,
    /// The same map again, to be read as a whole.
    table: MapData,
    state: Array<MapData, State>,
    addresses: HashMap<MapData, Address, u8>,
    address_slots: Array<MapData, AddressSlot>,
    /// The same map again, to be read as a whole.
    address_table: MapData,
    rule_counters: PerCpuArray<MapData, RuleCounters>,
    counters: PerCpuArray<MapData, AttachmentCounters>,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Maps {
    /// Opens the pinned maps, and checks that each is of the type and size that this loader and its programs use.
    ///
    /// # Errors
    ///
    /// One is missing or is another.
    pub fn open(pins: &Pins) -> Result<Self, MapsError> {
        fn open<M: TryFrom<Map, Error = MapError>>(pins: &Pins, map: &'static str) -> Result<M, MapsError> {
            MapData::from_pin(pins.map(map)).and_then(Map::from_map_data).and_then(M::try_from).map_err(
                |source| MapsError::Unfit {
                    interface: pins.interface().to_owned(),
                    map,
                    source: Box::new(source),
                },
            )
        }
        /// An array of `len` entries, and itself again.
        fn open_table<T: aya::Pod>(
            pins: &Pins,
            map: &'static str,
            len: u32,
        ) -> Result<(Array<MapData, T>, MapData), MapsError> {
            let unfit = |source| MapsError::Unfit {
                interface: pins.interface().to_owned(),
                map,
                source: Box::new(source),
            };
            let array: Array<MapData, T> = open(pins, map)?;
            if array.len() != len {
                return Err(unfit(MapError::OutOfBounds { index: len - 1, max_entries: array.len() }));
            }
            Ok((array, MapData::from_pin(pins.map(map)).map_err(unfit)?))
        }
        let (ports, table) = open_table(pins, map::PORTS, PORT_TABLE_LEN)?;
        let (address_slots, address_table) = open_table(pins, map::ADDRESS_SLOTS, ADDRESS_SLOTS)?;
        Ok(Self {
            interface: pins.interface().to_owned(),
            ports,
            table,
            address_slots,
            address_table,
            state: open(pins, map::STATE)?,
            addresses: open(pins, map::LOCAL_ADDRESSES)?,
            rule_counters: open(pins, map::RULE_COUNTERS)?,
            counters: open(pins, map::COUNTERS)?,
        })
    }

    fn failed(&self, action: &'static str, map: &'static str) -> impl Fn(MapError) -> MapsError + use<> {
        let interface = self.interface.clone();
        move |source| MapsError::Access {
            interface: interface.clone(),
            action,
            map,
            source: Box::new(source),
        }
    }

    /// The state in force.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn state(&self) -> Result<State, MapsError> {
        self.state.get(&0, 0).map_err(self.failed("reading", map::STATE))
    }

    /// Puts `state` in force.
    ///
    /// # Errors
    ///
    /// The kernel refused; the state in force stays.
    pub fn set_state(&mut self, state: State) -> Result<(), MapsError> {
        let failed = self.failed("writing", map::STATE);
        self.state.set(0, state, 0).map_err(failed)
    }

    /// The rules of `generation`, by protocol and FROM.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn rules(&self, generation: u32) -> Result<Vec<Slot>, MapsError> {
        let mut slots = Vec::new();
        for (protocol, port, entry) in self.entries(generation)? {
            if entry.kind() == PortKind::From {
                let rule = Rule { from: port, to: u16::from_be(entry.peer()), protocol };
                slots.push(Slot { index: entry.rule(), rule, fresh: false });
            }
        }
        Ok(slots)
    }

    /// Every entry of `generation` that is not all zeroes, by protocol and port.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn table(&self, generation: u32) -> Result<BTreeMap<(Protocol, u16), PortEntry>, MapsError> {
        let entries = self.entries(generation)?.into_iter();
        let used = entries.filter(|(.., entry)| *entry != PortEntry::default());
        Ok(used.map(|(protocol, port, entry)| ((protocol, port), entry)).collect())
    }

    /// Every entry of `generation`.
    fn entries(&self, generation: u32) -> Result<Vec<(Protocol, u16, PortEntry)>, MapsError> {
        let side = usize::from(generation != 0);
        let ports =
            PROTOCOLS.into_iter().flat_map(|protocol| (0..=u16::MAX).map(move |port| (protocol, port)));
        let entries = ports.zip(self.all_entries()?);
        Ok(entries.map(|((protocol, port), entries)| (protocol, port, entries.0[side])).collect())
    }

    /// Every entry, of both generations, by [`port_index`].
    fn all_entries(&self) -> Result<Vec<PortEntries>, MapsError> {
        read_table(&self.interface, &self.table, map::PORTS, PORT_TABLE_LEN)
    }

    /// Makes `slots` the rules of `generation`, which must not be in force. What the other has stands in the same words and is
    /// written again as it is.
    ///
    /// # Errors
    ///
    /// The kernel refused; the generation is then half-written, and must not be put in force.
    pub fn write_rules(&mut self, generation: u32, slots: &[Slot]) -> Result<(), MapsError> {
        let side = usize::from(generation != 0);
        let failed = self.failed("writing", map::PORTS);
        let mut table = self.all_entries()?;
        for (index, entries) in (0..).zip(&mut table) {
            if entries.0[side] != PortEntry::default() {
                entries.0[side] = PortEntry::default();
                self.ports.set(index, *entries, 0).map_err(&failed)?;
            }
        }
        for &Slot { index, rule, fresh } in slots {
            if fresh {
                self.zero_counters(index)?;
            }
            for (kind, port, peer) in
                [(PortKind::From, rule.from, rule.to), (PortKind::To, rule.to, rule.from)]
            {
                let place = port_index(rule.protocol, port);
                let mut entries = self.ports.get(&place, 0).map_err(&failed)?;
                entries.0[side] = PortEntry::new(kind, index, peer);
                self.ports.set(place, entries, 0).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Puts a generation without a rule in force: the programs then pass everything as it is.
    ///
    /// # Errors
    ///
    /// The kernel refused; the rules in force stay.
    pub fn put_out_of_force(&mut self) -> Result<(), MapsError> {
        let empty = 1 - self.state()?.generation();
        self.write_rules(empty, &[])?;
        self.set_state(State::new(empty, false))
    }

    /// The number of rules that there is room for.
    #[must_use]
    pub fn rule_capacity(&self) -> u32 {
        self.rule_counters.len()
    }

    fn zero_counters(&mut self, index: u16) -> Result<(), MapsError> {
        let failed = self.failed("writing", map::RULE_COUNTERS);
        let index = u32::from(index);
        let cpus = self.rule_counters.get(&index, 0).map_err(&failed)?.len();
        let zero = PerCpuValues::try_from(vec![RuleCounters::default(); cpus])
            .map_err(|error| failed(error.into()))?;
        self.rule_counters.set(index, zero, 0).map_err(failed)
    }

    /// The counters of the rule at `index`, all CPUs together.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn rule_counters(&self, index: u16) -> Result<RuleCounters, MapsError> {
        let values = self.rule_counters.get(&u32::from(index), 0);
        Ok(total(&values.map_err(self.failed("reading", map::RULE_COUNTERS))?))
    }

    /// The counters of the attachment, all CPUs together.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn counters(&self) -> Result<AttachmentCounters, MapsError> {
        Ok(total(&self.counters.get(&0, 0).map_err(self.failed("reading", map::COUNTERS))?))
    }
}

fn read_table<T: aya::Pod + Default>(
    interface: &str,
    table: &MapData,
    map: &'static str,
    len: u32,
) -> Result<Vec<T>, MapsError> {
    table::read(table, len).map_err(|source| MapsError::Read { interface: interface.to_owned(), map, source })
}

fn total<T: aya::Pod + Default + AddAssign>(values: &PerCpuValues<T>) -> T {
    values.iter().fold(T::default(), |mut sum, value| {
        sum += *value;
        sum
    })
}
