//! An attachment's maps as the loader reads and writes them.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::ops::AddAssign;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use rprox_common::{
    Address, AttachmentCounters, MAX_LOCAL_ADDRESSES, PORT_TABLE_LEN, PortEntry, PortKind, Protocol,
    RuleCounters, State, map, port_index,
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
    ports: Array<MapData, PortEntry>,
    /// The same map again, to be read in stretches.
    table: MapData,
    state: Array<MapData, State>,
    addresses: HashMap<MapData, Address, u8>,
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
        let ports: Array<_, _> = open(pins, map::PORTS)?;
        if ports.len() != PORT_TABLE_LEN {
            let source =
                Box::new(MapError::OutOfBounds { index: PORT_TABLE_LEN - 1, max_entries: ports.len() });
            return Err(MapsError::Unfit { interface: pins.interface().to_owned(), map: map::PORTS, source });
        }
        let table = MapData::from_pin(pins.map(map::PORTS)).map_err(|source| MapsError::Unfit {
            interface: pins.interface().to_owned(),
            map: map::PORTS,
            source: Box::new(source),
        })?;
        Ok(Self {
            interface: pins.interface().to_owned(),
            ports,
            table,
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
                let rule = Rule { from: port, to: u16::from_be(entry.peer), protocol };
                slots.push(Slot { index: entry.rule, rule, fresh: false });
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
        let mut found = Vec::new();
        for protocol in PROTOCOLS {
            let first = port_index(generation, protocol, 0);
            let entries = table::read(&self.table, first, 1 << 16).map_err(|source| MapsError::Read {
                interface: self.interface.clone(),
                map: map::PORTS,
                source,
            })?;
            found.extend((0..=u16::MAX).zip(entries).map(|(port, entry)| (protocol, port, entry)));
        }
        Ok(found)
    }

    /// Makes `slots` the rules of `generation`, which must not be in force.
    ///
    /// # Errors
    ///
    /// The kernel refused; the generation is then half-written, and must not be put in force.
    pub fn write_rules(&mut self, generation: u32, slots: &[Slot]) -> Result<(), MapsError> {
        let mut stale = Vec::new();
        for (protocol, port, entry) in self.entries(generation)? {
            if entry != PortEntry::default() {
                stale.push(port_index(generation, protocol, port));
            }
        }
        let failed = self.failed("writing", map::PORTS);
        for index in stale {
            self.ports.set(index, PortEntry::default(), 0).map_err(&failed)?;
        }
        for &Slot { index, rule, fresh } in slots {
            if fresh {
                self.zero_counters(index)?;
            }
            for (kind, port, peer) in
                [(PortKind::From, rule.from, rule.to), (PortKind::To, rule.to, rule.from)]
            {
                let entry = PortEntry::new(kind, index, peer);
                self.ports.set(port_index(generation, rule.protocol, port), entry, 0).map_err(&failed)?;
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

    /// The local addresses that the programs know.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn addresses(&self) -> Result<BTreeSet<IpAddr>, MapsError> {
        let keys = self.addresses.keys().map(|key| key.map(IpAddr::from));
        keys.collect::<Result<_, _>>().map_err(self.failed("reading", map::LOCAL_ADDRESSES))
    }

    /// Makes `wanted` the local addresses; new ones come in before old ones go. Returns how many came and went.
    ///
    /// # Errors
    ///
    /// There are too many, or the kernel refused.
    pub fn sync_addresses(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(usize, usize), MapsError> {
        if wanted.len() > MAX_LOCAL_ADDRESSES as usize {
            return Err(MapsError::TooManyAddresses(wanted.len()));
        }
        let known = self.addresses()?;
        let failed = self.failed("writing", map::LOCAL_ADDRESSES);
        let (came, went): (Vec<_>, Vec<_>) =
            (wanted.difference(&known).collect(), known.difference(wanted).collect());
        // A full map takes the new ones only once the old ones have left.
        let full = known.len() + came.len() > MAX_LOCAL_ADDRESSES as usize;
        if full {
            went.iter().try_for_each(|&&address| self.addresses.remove(&address.into())).map_err(&failed)?;
        }
        came.iter()
            .try_for_each(|&&address| self.addresses.insert(Address::from(address), 1, 0))
            .map_err(&failed)?;
        if !full {
            went.iter().try_for_each(|&&address| self.addresses.remove(&address.into())).map_err(&failed)?;
        }
        Ok((came.len(), went.len()))
    }
}

fn total<T: aya::Pod + Default + AddAssign>(values: &PerCpuValues<T>) -> T {
    values.iter().fold(T::default(), |mut sum, value| {
        sum += *value;
        sum
    })
}
