//! The addresses of this host: the hash that holds them all, and the table that answers for it as a rule.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rprox_common::{ADDRESS_SLOTS, Address, AddressSlot, MAX_LOCAL_ADDRESSES, map};

use super::{Maps, MapsError, read_table};

impl Maps {
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
    /// The table is written between the two: whatever it says of an address that it doesn't hold, the hash has the last word.
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
        for (place, slot) in self.wrong_address_slots(wanted)? {
            self.address_slots.set(place, slot, 0).map_err(self.failed("writing", map::ADDRESS_SLOTS))?;
        }
        if !full {
            went.iter().try_for_each(|&&address| self.addresses.remove(&address.into())).map_err(&failed)?;
        }
        Ok((came.len(), went.len()))
    }

    /// The places of the table that are not as they have to be for `addresses`, each with how it has to be.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn wrong_address_slots(
        &self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<(u32, AddressSlot)>, MapsError> {
        let found: Vec<AddressSlot> =
            read_table(&self.interface, &self.address_table, map::ADDRESS_SLOTS, ADDRESS_SLOTS)?;
        let wanted = slots(addresses);
        let places = (0..)
            .zip(found)
            .map(|(place, found)| (place, found, wanted.get(&place).copied().unwrap_or_default()));
        Ok(places
            .filter(|(_, found, wanted)| found != wanted)
            .map(|(place, _, wanted)| (place, wanted))
            .collect())
    }
}

/// The places that are taken. Of the addresses that share one the least stands in it.
fn slots(addresses: &BTreeSet<IpAddr>) -> BTreeMap<u32, AddressSlot> {
    let mut slots = BTreeMap::new();
    for &address in addresses {
        let address = Address::from(address);
        slots.entry(address.slot()).or_insert(AddressSlot::with(address));
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_a_network_hardly_ever_share_a_place() {
        for network in ["10.89.0.0", "192.168.1.0", "2001:db8::", "fe80::5054:ff:fe00:0"] {
            let network: IpAddr = network.parse().unwrap();
            let addresses: BTreeSet<IpAddr> = (1..=200)
                .map(|number| match network {
                    IpAddr::V4(network) => IpAddr::V4((u32::from(network) + number).into()),
                    IpAddr::V6(network) => IpAddr::V6((u128::from(network) + u128::from(number)).into()),
                })
                .collect();
            assert!(slots(&addresses).len() >= 190, "{network}: {} of 200", slots(&addresses).len());
        }
    }
}
