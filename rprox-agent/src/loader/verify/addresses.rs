//! Whether the programs know the addresses that this host has.

#![forbid(unsafe_code)]

use super::Difference;
use crate::loader::Error;
use crate::loader::host::Host;
use crate::loader::maps::Maps;

pub(super) fn check(host: &Host<'_>, maps: &Maps, interface: &str) -> Result<Vec<Difference>, Error> {
    let known = maps.addresses()?;
    let remedy =
        format!("run `rprox-loader attach -i {interface}` again, or `rprox-loader run`, which follows them");
    let missing = host.addresses.difference(&known).map(|address| (address, "known", "missing"));
    let extra = known
        .difference(&host.addresses)
        .map(|address| (address, "not known, as this host lacks it", "known"));
    let mut differences: Vec<_> = missing
        .chain(extra)
        .map(|(address, expected, found)| {
            Difference::new(format!("local address {address}"), expected, found, &remedy)
        })
        .collect();
    // It is made of the addresses: where those differ it does too.
    let wrong = if differences.is_empty() { maps.wrong_address_slots(&known)?.len() } else { 0 };
    if wrong > 0 {
        let found = format!("{wrong} places where others are, or none");
        differences.push(Difference::new("ADDRESS_SLOTS", "each known address in its place", found, &remedy));
    }
    Ok(differences)
}
