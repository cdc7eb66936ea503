//! How many connections there are, and how many each client has, so that no one takes all places.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

/// The table is in parts, so that workers that accept at the same time seldom wait for each other.
const PARTS: usize = 16;

/// Client connections of the whole process. Alone in its pair of cache lines: what is beside it is read for each request, and
/// would be fetched anew after each connection of another worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Connections(AtomicUsize);

impl Connections {
    /// One more, unless there are `limit` already; whether there is now.
    #[must_use]
    pub fn begin(&self, limit: usize) -> bool {
        let begins = self.0.fetch_add(1, Relaxed) < limit;
        if !begins {
            self.end();
        }
        begins
    }

    /// One that has [begun](Self::begin) ends.
    pub fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Connections by client address, of the whole process.
#[derive(Debug, Default)]
pub struct Clients {
    hasher: RandomState,
    parts: [Mutex<HashMap<IpAddr, usize>>; PARTS],
}

/// One of a client's connections.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// Counts a connection of `address` until the place is dropped; `None` if it has `limit` already. Of an IPv6 address only
    /// the first `prefix` bits count: whoever has one has a network of them.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr, prefix: u8, limit: usize) -> Option<Place> {
        let client = network(address.to_canonical(), prefix);
        self.with(client, |connections| {
            if *connections >= limit {
                return None;
            }
            *connections += 1;
            Some(Place { clients: Arc::clone(self), client })
        })
    }

    fn with<T>(&self, client: IpAddr, change: impl FnOnce(&mut usize) -> T) -> T {
        let part = usize::try_from(self.hasher.hash_one(client) % PARTS as u64).unwrap_or_default();
        let mut part = self.parts[part].lock().unwrap_or_else(PoisonError::into_inner);
        let connections = part.entry(client).or_default();
        let result = change(connections);
        if *connections == 0 {
            part.remove(&client);
        }
        result
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.with(self.client, |connections| *connections = connections.saturating_sub(1));
    }
}

fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !host).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(clients: &Arc<Clients>, address: &str) -> Option<Place> {
        clients.enter(address.parse().unwrap(), 64, 2)
    }

    #[test]
    fn a_client_s_place_is_free_again_when_its_connection_ends() {
        let clients = Arc::new(Clients::default());
        let first = enter(&clients, "192.0.2.1").unwrap();
        let _second = enter(&clients, "::ffff:192.0.2.1").unwrap();
        assert!(enter(&clients, "192.0.2.1").is_none());
        let _other = enter(&clients, "192.0.2.2").unwrap();
        drop(first);
        assert!(enter(&clients, "192.0.2.1").is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let clients = Arc::new(Clients::default());
        let _two = [enter(&clients, "2001:db8::1").unwrap(), enter(&clients, "2001:db8::2").unwrap()];
        assert!(enter(&clients, "2001:db8::3").is_none());
        assert!(enter(&clients, "2001:db8:0:1::1").is_some());
    }

    #[test]
    fn who_left_is_forgotten() {
        let clients = Arc::new(Clients::default());
        drop(enter(&clients, "192.0.2.1"));
        assert!(clients.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
