//! What workers count of each endpoint.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Counter, Gauge, Kind, Series};

/// The most endpoints that are told apart in metrics, so that no name with many addresses floods who collects them. The others are
/// counted together.
const MOST: usize = 1000;

/// One worker's block for one endpoint, which nobody else writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EndpointCounters {
    /// Requests sent.
    pub requests: Counter,
    /// Requests that it broke off before a response.
    pub broken: Counter,
    /// Connections that did not come about.
    pub connect_failures: Counter,
    /// Requests that it serves now.
    pub running: Gauge,
    /// HTTP/1.1 connections, in use and idle.
    pub connections: Gauge,
    /// 1 while it is left out.
    pub left_out: Gauge,
}

/// The blocks of all workers. An endpoint's metrics end when no worker knows it any more.
#[derive(Debug, Default)]
pub struct EndpointBoard(Mutex<Vec<(SocketAddr, Weak<EndpointCounters>)>>);

type Read = fn(&EndpointCounters) -> i64;

const SERIES: [(&str, &str, Kind, Read); 6] = [
    ("rprox_endpoint_requests", "Requests sent to an endpoint", Kind::Counter, |it| it.requests.get()),
    ("rprox_endpoint_broken", "Requests that an endpoint gave no response to", Kind::Counter, |it| {
        it.broken.get()
    }),
    (
        "rprox_endpoint_connect_failures",
        "Connections to an endpoint that did not come about",
        Kind::Counter,
        |it| it.connect_failures.get(),
    ),
    ("rprox_endpoint_requests_running", "Requests that an endpoint serves now", Kind::Gauge, |it| {
        it.running.get()
    }),
    (
        "rprox_endpoint_connections",
        "HTTP/1.1 connections to an endpoint, in use and idle",
        Kind::Gauge,
        |it| it.connections.get(),
    ),
    ("rprox_endpoint_left_out", "Workers that leave an endpoint out since it failed", Kind::Gauge, |it| {
        it.left_out.get()
    }),
];

impl EndpointBoard {
    /// A block for what one worker counts of the endpoint at `address`.
    pub fn add(&self, address: SocketAddr) -> Arc<EndpointCounters> {
        let counters = Arc::new(EndpointCounters::default());
        let mut blocks = self.lock();
        blocks.retain(|(_, block)| block.strong_count() > 0);
        blocks.push((address, Arc::downgrade(&counters)));
        counters
    }

    /// The metrics, each endpoint's summed over the workers.
    pub fn series(&self) -> Vec<Series> {
        let mut by_endpoint: BTreeMap<SocketAddr, Vec<Arc<EndpointCounters>>> = BTreeMap::new();
        for (address, block) in self.lock().iter() {
            if let Some(block) = block.upgrade() {
                by_endpoint.entry(*address).or_default().push(block);
            }
        }
        let mut groups: Vec<(String, Vec<Arc<EndpointCounters>>)> = Vec::new();
        for (number, (address, blocks)) in by_endpoint.into_iter().enumerate() {
            match groups.last_mut() {
                Some((label, others)) if number > MOST => {
                    "others".clone_into(label);
                    others.extend(blocks);
                }
                _ => groups.push((address.to_string(), blocks)),
            }
        }
        let series = SERIES.into_iter().map(|(name, help, kind, read)| {
            let values = groups.iter().map(|(label, blocks)| {
                let sum = blocks.iter().map(|block| read(block)).sum();
                (Some(("endpoint", label.clone().into())), sum)
            });
            Series { name, help, kind, values: values.collect() }
        });
        series.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, Weak<EndpointCounters>)>> {
        // Nothing panics while it is held; if it did, the list would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_what_is_gone_ends() {
        let board = EndpointBoard::default();
        let (one, two) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let blocks = [board.add(one), board.add(one), board.add(two)];
        for block in &blocks {
            block.requests.increment();
        }
        let values = |board: &EndpointBoard| board.series().swap_remove(0).values;
        let expected = [("10.0.0.1:80", 2), ("10.0.0.2:80", 1)];
        assert_eq!(values(&board), expected.map(|(at, count)| (Some(("endpoint", at.into())), count)));
        drop(blocks);
        assert!(values(&board).is_empty());
    }

    #[test]
    fn no_more_than_so_many_are_told_apart() {
        let board = EndpointBoard::default();
        let address = |number: u16| SocketAddr::from(([10, 0, 0, 1], number));
        let blocks: Vec<_> = (1..=1500).map(|number| board.add(address(number))).collect();
        for block in &blocks {
            block.requests.increment();
        }
        let values = board.series().swap_remove(0).values;
        assert_eq!(values.len(), MOST + 1);
        assert_eq!(values.last(), Some(&(Some(("endpoint", "others".into())), 500)));
    }
}
