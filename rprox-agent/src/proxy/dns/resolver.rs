//! One look-up of a name: A and AAAA side by side, or SRV and then those of its targets.
//!
//! The queries are plain: an absolute name in lower case, no EDNS, no case randomisation, over UDP. Every server takes those,
//! and aardvark-dns 1.4 takes no upper case and no TCP. Answers of more than 512 bytes need more: TCP where the server says
//! that it cut one short, and EDNS (RFC 6891) where there is no TCP or where, as aardvark-dns does, it sends the whole anyway.

#![forbid(unsafe_code)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::servers::Servers;
use super::{Address, DnsError};
use crate::proxy::config::DnsConfig;
use crate::proxy::timer::timeout;
use crate::proxy::upstream::Upstream;

/// How long the first family's addresses wait for the other family's (RFC 8305 section 3, "Resolution Delay").
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Where the system's servers are.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Addresses that have a query of their own, which can fail while others are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    V4,
    V6,
    /// Those of one of a service's targets, and which they were nobody knows.
    Target,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) endpoints: Vec<Address>,
    /// The shortest of the records' times to live, as DNS has it.
    pub(super) ttl: Duration,
    /// What got no answer at all, where the rest did.
    pub(super) unanswered: Option<Part>,
}

/// Why a look-up found nothing.
#[derive(Clone, Debug)]
pub(super) enum Miss {
    /// DNS answered, and has no address by that name.
    Absent,
    /// DNS did not answer, or could not.
    Failed(String),
}

/// The addresses of one query and their time to live, in seconds.
type Addresses = Result<(Vec<IpAddr>, u32), Miss>;

pub(super) struct Resolver(Servers);

impl Resolver {
    pub(super) fn new(config: &DnsConfig) -> Result<Self, DnsError> {
        Ok(Self(Servers::new(super::with_servers(config)?.servers, config)?))
    }

    /// Looks `upstream` up. `early` gets what one family has where the other's answer takes long to come.
    pub(super) async fn look_up(
        &self,
        upstream: &Upstream,
        early: impl FnOnce(Found),
    ) -> Result<Found, Miss> {
        match upstream.port {
            Some(port) => self.addresses(&upstream.name, port, early).await,
            None => self.services(&upstream.name).await,
        }
    }

    /// The endpoints of the SRV records of `name`, with their priorities and weights (RFC 2782).
    async fn services(&self, name: &str) -> Result<Found, Miss> {
        let mut services = Vec::new();
        let mut ttl = u32::MAX;
        for (record, record_ttl) in self.query(name, RecordType::SRV).await? {
            if let RData::SRV(service) = record
                && !service.target.is_root()
            {
                ttl = ttl.min(record_ttl);
                services.push(service);
            }
        }
        let targets = services.iter().map(async |service| {
            let target = service.target.to_ascii().to_ascii_lowercase();
            self.addresses(&target, service.port, |_| {}).await
        });
        let targets = join_all(targets).await;
        let mut found = Found { endpoints: Vec::new(), ttl: seconds(ttl), unanswered: None };
        let mut failed = None;
        for (service, target) in services.iter().zip(targets) {
            match target {
                Ok(target) => {
                    let weight = share(service.weight, target.endpoints.len());
                    found.endpoints.extend(target.endpoints.into_iter().map(|address| Address {
                        priority: service.priority,
                        weight,
                        ..address
                    }));
                    found.ttl = found.ttl.min(target.ttl);
                    found.unanswered = found.unanswered.or(target.unanswered);
                }
                Err(miss @ Miss::Failed(_)) => failed = Some(miss),
                Err(Miss::Absent) => {}
            }
        }
        if found.endpoints.is_empty() {
            return Err(failed.unwrap_or(Miss::Absent));
        }
        if failed.is_some() {
            found.unanswered = Some(Part::Target);
        }
        Ok(found)
    }

    /// The addresses of `name`, each with `port`.
    async fn addresses(&self, name: &str, port: u16, early: impl FnOnce(Found)) -> Result<Found, Miss> {
        let v4 = pin!(self.family(name, RecordType::A));
        let v6 = pin!(self.family(name, RecordType::AAAA));
        let pending = || Err(Miss::Failed("no answer yet".to_owned()));
        let tell = |v4, v6| combine(port, v4, v6).map(early);
        match select(v4, v6).await {
            Either::Left((v4, rest)) => {
                let v6 = wait_or(rest, || tell(v4.clone(), pending())).await;
                combine(port, v4, v6)
            }
            Either::Right((v6, rest)) => {
                let v4 = wait_or(rest, || tell(pending(), v6.clone())).await;
                combine(port, v4, v6)
            }
        }
    }

    async fn family(&self, name: &str, kind: RecordType) -> Addresses {
        let mut addresses = Vec::new();
        let mut ttl = u32::MAX;
        for (record, record_ttl) in self.query(name, kind).await? {
            // An alias on the way counts too: the answer is good for no longer than it.
            ttl = ttl.min(record_ttl);
            match record {
                RData::A(address) => addresses.push(IpAddr::V4(address.0)),
                RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
                _ => {}
            }
        }
        if addresses.is_empty() { Err(Miss::Absent) } else { Ok((addresses, ttl)) }
    }

    async fn query(&self, name: &str, kind: RecordType) -> Result<Vec<(RData, u32)>, Miss> {
        let name = Name::from_ascii(name).map_err(|error| Miss::Failed(error.to_string()))?;
        match self.0.ask(&name, kind).await {
            Ok(answer) => {
                Ok(answer.answers().iter().map(|record| (record.data.clone(), record.ttl)).collect())
            }
            Err(error) if error.is_no_records_found() => Err(Miss::Absent),
            Err(error) => Err(Miss::Failed(error.to_string())),
        }
    }
}

/// Waits for `rest`, the other family's answer, and calls `tell` in between where the wait is long.
async fn wait_or<T>(
    mut rest: impl Future<Output = Addresses> + Unpin,
    tell: impl FnOnce() -> T,
) -> Addresses {
    if let Some(answer) = timeout(RESOLUTION_DELAY, &mut rest).await {
        return answer;
    }
    tell();
    rest.await
}

/// Both families' endpoints. One family's failure does not sink the other's success.
fn combine(port: u16, v4: Addresses, v6: Addresses) -> Result<Found, Miss> {
    let unanswered = match (&v4, &v6) {
        (Err(Miss::Failed(_)), _) => Some(Part::V4),
        (_, Err(Miss::Failed(_))) => Some(Part::V6),
        _ => None,
    };
    let (mut endpoints, mut ttl, mut miss) = (Vec::new(), u32::MAX, Miss::Absent);
    for answer in [v4, v6] {
        match answer {
            Ok((addresses, record_ttl)) => {
                endpoints.extend(
                    addresses.into_iter().map(|address| Address::from(SocketAddr::new(address, port))),
                );
                ttl = ttl.min(record_ttl);
            }
            // That DNS failed weighs more than that the other family has nothing.
            Err(failed @ Miss::Failed(_)) => miss = failed,
            Err(Miss::Absent) => {}
        }
    }
    if endpoints.is_empty() { Err(miss) } else { Ok(Found { endpoints, ttl: seconds(ttl), unanswered }) }
}

/// What each of a target's addresses has of its weight. A weight of 0 is "a very small chance of being selected".
fn share(weight: u16, addresses: usize) -> u32 {
    let addresses = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    (u32::from(weight) * 1024 / addresses).max(1)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

pub(super) fn system_servers() -> Result<Vec<SocketAddr>, DnsError> {
    let text = fs::read_to_string(RESOLV_CONF).map_err(|error| DnsError::ResolvConf(error.to_string()))?;
    let servers = name_servers_of(&text);
    if servers.is_empty() { Err(DnsError::NoServers) } else { Ok(servers) }
}

/// The `nameserver` lines of a `resolv.conf` (resolv.conf(5)). Its search domains are not used: `dns.search` is.
fn name_servers_of(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
            Some(SocketAddr::new(address.parse().ok()?, 53))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let text = "# made by podman\nsearch dns.podman\nnameserver 10.89.0.1\nnameserver\tfd00::1 # second\n\
                    ;nameserver 192.0.2.1\nnameserver\noptions ndots:0\n";
        assert_eq!(name_servers_of(text), ["10.89.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }
}
